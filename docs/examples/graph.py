"""STGT's graph on patch tokens of any backbone: which patches of neighbouring frames are alike."""

import torch

from stoa.models.clip import Clip
from stoa.models.config import BackboneConfig, GraphConfig
from stoa.models.graph import GraphEncoder
from stoa.models.graph_attention import band_edges, density, graph_attention

torch.manual_seed(0)
B, T, P, width, heads = 1, 4, 16, 32, 4

# Patches of a frame, and the same ones a patch further in every frame: something that moves.
still = torch.randn(P, width)
patches = torch.stack([still.roll(t, dims=0) for t in range(T)])[None] + 0.1 * torch.randn(B, T, P, width)
edges = band_edges(patches, reach=1, threshold=0.5)
print(f"{density(edges).item():.1%} of the possible edges are there")
seen, cosines, kept = edges[1]
print(
    f"patch 5 of frame 1 sees frames {seen.start} to {seen.stop - 1}: patches",
    kept[0, 5].view(-1, P).nonzero().tolist(),
)

# The operation alone, with queries, keys and values of your own.
q, k, v = torch.randn(3, B, heads, T, P, width // heads)
print("attention along the edges", tuple(graph_attention(q, k, v, edges, "log_bias").shape))

# The whole module, which starts from the blocks of a CLIP vision tower.
clip = Clip(BackboneConfig(name="stoa-tiny"))
module = GraphEncoder(GraphConfig(layers=1), clip.visual, num_frames=T)
frames = torch.randint(0, 256, (B, T, 3, 32, 32), dtype=torch.uint8)
_, tapped = clip.encode_frames(frames, taps=frozenset({1}))
features = module(tapped[1].unflatten(0, (B, T)))
print("tokens", tuple(features.tokens_BRd.shape), "to add to the pooled video", tuple(features.pooled_Bd.shape))
