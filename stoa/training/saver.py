"""Saving while the training goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from stoa.training import engine as ds
from stoa.training import saving, states


class Saver:
    """Writes the checkpoints of a run, one at a time.

    What a checkpoint holds is settled when :meth:`save` returns: in the background a copy of it is written, which the
    training does not change.

    Args:
        folder: of the checkpoints.
        keep: complete ones to keep.
        background: write in a thread.
        goes_on: a disk that refuses is told, and the training goes on.
        say: tells a person.
    """

    def __init__(self, folder: Path, *, keep: int, background: bool, goes_on: bool, say: Callable[[str], None]) -> None:
        self._folder, self._keep, self._say = folder, keep, say
        self._background, self._goes_on = background, goes_on
        self._thread: threading.Thread | None = None
        self._written: Path | None = None
        self._error: Exception | None = None

    def save(self, engine: Any, model: nn.Module, step: int, run: dict[str, Any], *, last: bool) -> None:
        """All ranks: write a checkpoint, once the one before is written.

        Args:
            engine: of DeepSpeed.
            model: whose weights go to ``model.safetensors``.
            step: optimiser steps done.
            run: JSON-able facts (configuration, sampler state, versions) for ``run.json``.
            last: the training ends with it, so it is waited for, and nothing goes on without it.

        Raises:
            OSError: the disk refuses, now or what was begun before.
        """
        self.finish()
        try:
            temporary = saving.begin(model, self._folder, step)
        except OSError as error:
            self._error = error
            self._meet(goes_on=self._goes_on and not last)
            return
        content = saving.Content(
            states.take(engine, copy=self._background), ds.whole_weights(model, copy=self._background), run
        )
        self._thread = threading.Thread(target=self._write, args=(content, temporary), name="saving", daemon=True)
        self._thread.start()
        if last or not self._background:
            self.finish(last=last)
            dist.barrier()  # who has written waits for the first one here, as long as a save may take, not in a step

    def _write(self, content: saving.Content, temporary: Path) -> None:
        try:
            self._written = saving.write(content, temporary, keep=self._keep)
        except Exception as error:
            self._error = error

    def check(self) -> None:
        """Say that a checkpoint has been written in the meantime.

        Raises:
            OSError: it could not be.
        """
        if self._thread is not None and not self._thread.is_alive():
            self.finish()

    def finish(self, *, last: bool = False) -> None:
        """Wait for what was begun; raises as :meth:`check` does."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._meet(goes_on=self._goes_on and not last)

    def _meet(self, *, goes_on: bool) -> None:
        written, error, self._written, self._error = self._written, self._error, None, None
        if written is not None:
            self._say(f"saved {written}")
        if error is None:
            return
        if not (goes_on and isinstance(error, OSError)):
            raise error
        self._say(f"{error}; the training goes on (training.on_save_failure)")

    def close(self) -> None:
        """Wait for what was begun, whatever becomes of it: the run has ended for another reason."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
