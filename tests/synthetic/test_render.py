from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stoa.synthetic.actions import REST_LIGHT, Rest, Style
from stoa.synthetic.render import DISTANCES, encode, render
from stoa.synthetic.scene import COLOURS, SHAPES, Background, Role, Scene, Story, sample_scene, sample_story


def _scene(*things: tuple[str, str, float, float]) -> Scene:
    """Objects (shape, colour, x, y) that do nothing, the first one in front."""
    roles = tuple(Role(shape=s, colour=c, family="none", backward=False, captioned=False) for s, c, _, _ in things)
    return Scene(
        Story(roles, ()),
        tuple(Rest(x, y, 0.2, 0.3, 0.0) for _, _, x, y in things),
        (Style(0.5, 0.5, 0.1),) * len(things),
        tuple(range(len(things))),
        Background(40, 0, 0),
    )


def test_every_shape_can_be_drawn() -> None:
    assert set(DISTANCES) == set(SHAPES)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fills_its_circle_and_no_more(shape: str) -> None:
    side = np.linspace(-1.5, 1.5, 301)
    u, v = np.meshgrid(side, side)
    from_centre = np.hypot(u, v)
    inside = DISTANCES[shape](u, v, from_centre) <= 0
    assert from_centre[inside].max() < 1.05
    reach = max(np.abs(u[inside]).max(), np.abs(v[inside]).max())
    assert reach > 0.68 and 0.15 < inside.sum() / (from_centre <= 1).sum() <= 1


def test_shapes_differ_from_each_other_whatever_their_angle() -> None:
    side = np.linspace(-1, 1, 61)
    u, v = np.meshgrid(side, side)
    masks = {}
    for shape in SHAPES:
        for step in range(24):
            cos, sin = np.cos(step * np.pi / 12), np.sin(step * np.pi / 12)
            masks[shape, step] = DISTANCES[shape](u * cos + v * sin, v * cos - u * sin, np.hypot(u, v)) <= 0
    for one in SHAPES:
        for other in SHAPES:
            if one < other:
                overlaps = [
                    (masks[one, 0] & masks[other, step]).sum() / (masks[one, 0] | masks[other, step]).sum()
                    for step in range(24)
                ]
                assert max(overlaps) < 0.88, (one, other)


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_survive_the_codec(
    colour: str, tmp_path: Path, decode: Callable[[Path], tuple[np.ndarray, list[float]]]
) -> None:
    rendering = render(_scene(("square", colour, 0.5, 0.5)), num_frames=4, size=64)
    encode(rendering.frames, tmp_path / "clip.mp4", fps=8)
    frames, _ = decode(tmp_path / "clip.mp4")
    patch = frames[:, 26:38, 26:38].reshape(-1, 3).mean(axis=0)
    palette = np.array(list(COLOURS.values())) * REST_LIGHT * 0.75
    assert list(COLOURS)[int(np.abs(palette - patch).sum(axis=1).argmin())] == colour


def test_what_is_in_front_hides_what_is_behind() -> None:
    rendering = render(_scene(("circle", "red", 0.5, 0.5), ("square", "blue", 0.5, 0.5)), num_frames=4, size=64)
    assert rendering.visibility[0].min() > 0.99
    assert rendering.visibility[1].max() < 0.05
    red, _, blue = rendering.frames[0, 28:36, 22:30].reshape(-1, 3).astype(int).mean(axis=0)
    assert red > 2 * blue


def test_what_is_outside_the_frame_is_not_visible() -> None:
    rendering = render(_scene(("circle", "red", 0.0, 0.5)), num_frames=4, size=64)
    assert rendering.visibility == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(rendering.boxes[0, 0], (0.0, 19.2, 12.8, 44.8))


@pytest.mark.parametrize(("size", "num_frames", "fps"), [(32, 4, 1), (64, 16, 8), (98, 7, 30), (224, 5, 25)])
def test_videos_decode_with_exact_times(
    size: int, num_frames: int, fps: int, tmp_path: Path, decode: Callable[[Path], tuple[np.ndarray, list[float]]]
) -> None:
    rng = np.random.default_rng(size)
    rendering = render(sample_scene(rng, sample_story(rng, "seen")), num_frames=num_frames, size=size)
    encode(rendering.frames, tmp_path / "clip.mp4", fps=fps)
    frames, times = decode(tmp_path / "clip.mp4")
    assert frames.shape == rendering.frames.shape == (num_frames, size, size, 3)
    assert times == [frame / fps for frame in range(num_frames)]
    # H.264 stores one colour for 2 x 2 pixels.
    decoded, drawn = (
        x.reshape(num_frames, size // 2, 2, size // 2, 2, 3).mean(axis=(2, 4)) for x in (frames, rendering.frames)
    )
    assert np.abs(decoded - drawn).mean() < 3


def _light_of(family: str, backward: bool, size: int = 128) -> np.ndarray:
    """Brightness of the first and the next of 64 frames of a large moon, minus the background (2, S, S)."""
    role = Role(shape="moon", colour="white", family=family, backward=backward, captioned=False)
    scene = Scene(
        Story((role,), ()), (Rest(0.5, 0.5, 0.4, 0.3, 0.0),), (Style(0.5, 0.5, 0.1),), (0,), Background(0, 0, 0)
    )
    frames = render(scene, num_frames=64, size=size).frames[:2].astype(float)
    return frames.mean(axis=-1)


@pytest.mark.parametrize("backward", [False, True])
def test_clockwise_is_clockwise_on_the_screen(backward: bool) -> None:
    light = _light_of("spin", backward)
    y, x = np.mgrid[: light.shape[1], : light.shape[2]] - (light.shape[1] - 1) / 2
    centres = [complex((frame * x).sum(), (frame * y).sum()) for frame in light]
    turned = np.angle(centres[1] / centres[0])  # y points down: positive is clockwise
    assert 0.01 < (-turned if backward else turned) < 0.2


@pytest.mark.parametrize("backward", [False, True])
def test_outward_is_away_from_the_centre(backward: bool) -> None:
    light = _light_of("ripple", backward)
    y, x = np.mgrid[: light.shape[1], : light.shape[2]] - (light.shape[1] - 1) / 2
    rings = np.hypot(x, y).round().astype(int)
    first, second = (
        np.array([frame[(rings == radius) & (light.min(axis=0) > 0)].mean() for radius in range(24, 44)])
        for frame in light
    )
    change, slope = (second - first)[1:-1], (first[2:] - first[:-2]) / 2
    speed = -(change * slope).sum() / (slope**2).sum()  # of a wave that keeps its form, in pixels a frame
    assert 0.05 < (-speed if backward else speed) < 5
