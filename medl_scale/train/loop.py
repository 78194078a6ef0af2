"""The training loop: epochs of minibatches, validation, roll-back, checkpoints.

Everything that decides the next step is in `Position` and in the engine's state, so that a fit that
was killed continues bit for bit as if it had not been.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import signal
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medl_scale.errors import DivergedError
from medl_scale.models.variational import table_kl
from medl_scale.seeds import Purpose, generator
from medl_scale.stream.minibatches import blocks, chunked_blocks, dense_rows, stream
from medl_scale.stream.plan import EpochPlan
from medl_scale.stream.runs import Places
from medl_scale.train.checkpoint import read_checkpoint, write_checkpoint
from medl_scale.train.collective import Alone, Peers
from medl_scale.train.engine import Engine, Feeds, Share
from medl_scale.train.position import Position, position_of, record_of
from medl_scale.train.records import LoopConfig, Status, TrainData, TrainingResult
from medl_scale.train.stopping import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from medl_scale.models.network import Network
    from medl_scale.stream.minibatches import Form, Minibatch

    State = dict[str, NDArray[Any]]

__all__ = ["Training"]

VALIDATION_ROWS = 2048
"""Cells of one validation block; enough for full speed, small beside the training arrays."""
RATE_DROP = 0.2
RECOVERY_DROP = 0.1


class _Unread(NamedTuple):
    """A step whose loss terms have not been looked at."""

    terms: Any
    feeds: Feeds
    rows: NDArray[np.int64]
    epoch: int
    step: int


class Training:
    """One network being trained on one fold.

    Parameters
    ----------
    checkpoint
        File to write checkpoints to, or None for none.
    report
        Called after steps, at most a few times a second, and after each epoch.
    peers
        The processes that train the network together, each with an engine of its own.
    """

    def __init__(
        self,
        network: Network,
        engine: Engine,
        data: TrainData,
        config: LoopConfig,
        *,
        checkpoint: Path | None = None,
        report: Callable[[Status], None] = lambda _: None,
        peers: Peers | None = None,
    ) -> None:
        self.network = network
        self.engine = engine
        self.data = data
        self.config = config
        self.checkpoint = checkpoint
        self.report = report
        self.peers = peers or Alone()
        self.position = Position(sums=[0.0] * len(network.reported))
        self._best: State = {}
        self._good: tuple[State, dict[str, Any]] | None = None
        self._saved_at = time.monotonic()
        self._reported_at = 0.0
        self._interrupted = False
        self._all_stop = False
        """Whether a rank was interrupted, as every rank learnt in the same step."""
        self._unread: deque[_Unread] = deque()
        # Ranks must learn in the same step that they are to stop, whatever any of them waits for.
        self._steps_ahead = engine.steps_ahead if self.peers.world_size == 1 else 0
        self._form: Form | None = None
        """How minibatches reach the engine, once that is known."""
        self._places = Places(data.split.train)

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one; say whether there was."""
        found = self.peers.from_first(self._stored)
        if found is None:
            return False
        states, record = found
        place = record["place"]
        self.engine.load_state(states[place["now"]])
        self.position = position_of(record["position"])
        self._good = (states[place["good"]], record["good_position"])
        self._best = states.get(place["best"], {})
        return True

    def run(self) -> TrainingResult:
        """Train until early stopping or the last epoch; leave the best weights in the engine.

        Raises
        ------
        DivergedError
            If losses are not finite even after the learning rate was lowered.
        KeyboardInterrupt
            After a checkpoint was written.
        """
        with self._interruptible():
            if self._good is None:
                self._remember_good()
            while not self.position.is_over:
                timings = self._train_epoch()
                if timings is not None:
                    self._end_epoch(timings)
        position = self.position
        if self._best:
            self.engine.load_state(self._best)
        return TrainingResult(
            history=position.history,
            best_epoch=position.stopping.best_epoch,
            best_value=position.stopping.best,
            n_steps=position.step,
        )

    def _stored(self) -> tuple[dict[str, State], dict[str, Any]] | None:
        """Return what the checkpoint holds, if there is one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        return read_checkpoint(self.checkpoint)

    def _plan(self) -> EpochPlan:
        """Return the order of the present epoch."""
        return EpochPlan(
            train=self.data.split.train,
            minibatch_size=self.config.minibatch_size,
            run_size=self.config.run_size,
            window_size=self.config.window_size,
            seed=self.config.seed,
            epoch=self.position.epoch,
        )

    def _train_epoch(self) -> dict[str, float] | None:
        """Run what is left of the epoch; return its timings, or None after going back."""
        position, data = self.position, self.data
        plan = self._plan()
        started = time.perf_counter()
        step_s, n_cells = 0.0, 0
        # What an error of an earlier call may have left.
        self._unread.clear()
        minibatches = stream(
            data.source,
            data.columns,
            plan,
            data.transform,
            rank=self.peers.rank,
            world_size=self.peers.world_size,
            start=position.minibatch,
            prefetch=self.config.prefetch,
            form=self._row_form(),
            send=self.engine.send_rows,
        )
        with minibatches:
            for minibatch in minibatches:
                before = time.perf_counter()
                feeds = self._training_feeds(minibatch)
                terms = self.engine.step(feeds, learning_rate=self._learning_rate())
                self._unread.append(
                    _Unread(terms, feeds, minibatch.rows, position.epoch, position.step)
                )
                position.step += 1
                position.minibatch += 1
                is_fine = self._read_terms(self._steps_ahead)
                step_s += time.perf_counter() - before
                if not is_fine:
                    return None
                n_cells += _n_cells(feeds)
                if not self._after_step(plan, n_cells / (time.perf_counter() - started)):
                    return None
        if not self._read_terms():
            return None
        seconds = time.perf_counter() - started
        return {
            "train_s": seconds,
            "step_s": step_s,
            "loader_wait_s": minibatches.wait_s,
            "cells_per_s": n_cells / seconds if seconds > 0 else 0.0,
        }

    def _row_form(self) -> Form:
        """Return how minibatches reach the engine; the first time, fill its device if it keeps rows."""
        if self._form is None:
            self._form = "dense"
            data = self.data
            budget = None
            if self.peers.world_size == 1:
                budget = self.engine.takes_rows(
                    data.transform, data.source.n_vars, self.config.device_cache_memory
                )
            if budget is not None:
                rows = chunked_blocks(data.source, data.columns, data.split.train, data.transform)
                fits = budget > 0 and self.engine.keep_rows(rows, budget)
                self._form = "rows" if fits else "chunks"
        return self._form

    def _read_terms(self, most: int = 0) -> bool:
        """Add up terms until at most `most` steps are unread; say False after going back instead.

        Steps are read in their order, one by one, so the sums do not depend on when that is.
        """
        position = self.position
        while len(self._unread) > most:
            step = self._unread.popleft()
            terms = np.asarray(step.terms, np.float64)
            if step.feeds.share is not None:
                terms, self._all_stop = terms[:-1], bool(terms[-1] > 0)
            if not np.isfinite(terms).all():
                self._unread.clear()
                feeds = self._densified(step.feeds, step.rows)
                self._recover(terms, feeds, f"epoch {step.epoch}, step {step.step}")
                return False
            size = _n_cells(step.feeds)
            position.n_cells += size
            position.sums = [s + t * size for s, t in zip(position.sums, terms, strict=True)]
        return True

    def _densified(self, feeds: Feeds, rows: NDArray[np.int64]) -> Feeds:
        """Return feeds of these rows with the values of their cells."""
        if feeds.cells is None:
            return feeds
        data = self.data
        x = dense_rows(data.source, data.columns, rows, data.transform)
        return dataclasses.replace(feeds, x=x, cells=None)

    def _after_step(self, plan: EpochPlan, cells_per_s: float) -> bool:
        """Report, and write a checkpoint where one is due inside a long epoch; False after going back."""
        now = time.monotonic()
        position = self.position
        if now - self._reported_at > 0.25:
            self._reported_at = now
            self.report(
                Status(
                    position.epoch,
                    self.config.max_epochs,
                    position.minibatch,
                    plan.n_minibatches,
                    cells_per_s,
                    None,
                )
            )
        if position.minibatch < plan.n_minibatches and self._is_save_due():
            if not self._read_terms():
                return False
            self._save_if_due()
        return True

    def _end_epoch(self, timings: dict[str, float]) -> None:
        """Validate if due, decide how to go on, and write the epoch's row."""
        position, config = self.position, self.config
        kl = self._effects_kl()
        row: dict[str, Any] = {
            "epoch": position.epoch,
            "step": position.step,
            "learning_rate": self._learning_rate(),
        }
        row |= self._named("train", np.asarray(position.sums) / position.n_cells, kl)
        position.epoch += 1
        position.minibatch = 0
        position.n_cells = 0
        position.sums = [0.0] * len(self.network.reported)
        last = position.epoch >= config.max_epochs
        verdict = Verdict.CONTINUE
        started = time.perf_counter()
        if last or position.step - position.validated_at >= config.validate_every_steps:
            position.validated_at = position.step
            terms, bad_block = self._validate()
            row |= self._named("val", terms, kl)
            if not np.isfinite(terms).all():
                place = f"epoch {row['epoch']}, step {position.step}, in validation"
                self._recover(terms, bad_block, place)
                return
            position.stopping, verdict = position.stopping.check(
                config.stopping, float(terms[0]), epoch=row["epoch"], step=position.step
            )
        row["validation_s"] = time.perf_counter() - started
        row |= timings
        row["peak_memory_bytes"] = _peak_memory()
        position.history.append(row)
        is_best = position.stopping.best_epoch == row["epoch"]
        if is_best:
            self._best = self.engine.state()
        if verdict is Verdict.LOWER_RATE:
            position.rate_factor *= RATE_DROP
            self.engine.load_state(self._best | {"n_steps": np.asarray(position.step)})
        position.is_over = last or verdict is Verdict.STOP
        if "val_total" in row:
            self._remember_good(self._best if is_best else None)
        self.report(Status(position.epoch, config.max_epochs, 0, 0, timings["cells_per_s"], row))
        self._save_if_due()

    def _validate(self) -> tuple[NDArray[np.float64], Feeds | None]:
        """Return (n_terms,) means over the validation cells, and the first own block without finite ones."""
        data, peers = self.data, self.peers
        val = data.split.val
        n_blocks = -(-(val.stop - val.start) // VALIDATION_ROWS)
        # Whole blocks for each rank, so that their losses are those of one process.
        first, end = (
            min(val.start + n_blocks * rank // peers.world_size * VALIDATION_ROWS, val.stop)
            for rank in (peers.rank, peers.rank + 1)
        )
        sums = np.zeros(len(self.network.reported))
        n_cells = 0
        bad: list[tuple[Feeds, NDArray[np.int64]]] = []
        with blocks(
            data.source,
            data.columns,
            [slice(first, end)] if first < end else [],
            data.transform,
            VALIDATION_ROWS,
            form="dense" if self._row_form() == "dense" else "chunks",
            send=self.engine.send_rows,
        ) as found:
            for block in found:
                feeds = self._feeds(block)
                terms = np.asarray(self.engine.evaluate(feeds), np.float64)
                if not bad and not np.isfinite(terms).all():
                    bad = [(feeds, block.rows)]
                sums += terms * len(block.rows)
                n_cells += len(block.rows)
        totals = peers.sum(np.append(sums, n_cells))
        return totals[:-1] / totals[-1], self._densified(*bad[0]) if bad else None

    def _feeds(self, minibatch: Minibatch) -> Feeds:
        """Return a block's feeds without randomness."""
        frozen = self.data.frozen_latent
        cells = minibatch.cells
        if self._form == "rows" and cells is None:
            cells = self.engine.kept_rows(self._places.of(minibatch.rows))
        return Feeds(
            x=minibatch.x,
            batch_codes=minibatch.batch_codes,
            label_codes=minibatch.label_codes,
            cells=cells,
            frozen_latent=None if frozen is None else frozen[minibatch.rows],
        )

    def _training_feeds(self, minibatch: Minibatch) -> Feeds:
        """Return a minibatch's feeds; its random numbers depend on seed and step alone."""
        network = self.network
        rng = generator(self.config.seed, Purpose.TRAINING_NOISE, self.position.step)
        noise = mask = share = None
        size, own = len(minibatch.rows), slice(None)
        if minibatch.whole is not None:
            columns, whole = self.data.columns, minibatch.whole
            start = sum(whole.sizes[: self.peers.rank])
            own = slice(start, start + size)
            size = len(whole.rows)
            n_labelled = int((columns.label_codes[whole.rows] >= 0).sum())
            share = Share(columns.batch_codes[whole.rows], n_labelled, self._interrupted)
        if network.uses_latent_noise:
            noise = rng.standard_normal((size, network.n_latent), dtype=np.float32)[own]
        if network.input_dropout > 0:
            n_vars = minibatch.x.shape[1]
            drawn = np.frombuffer(rng.bytes(size * n_vars), np.uint8).reshape(size, n_vars)[own]
            mask = (drawn >= round(256 * network.input_dropout)).view(np.uint8)
        ramp = min(1.0, self.position.step / max(1, self.config.ramp_steps))
        return dataclasses.replace(
            self._feeds(minibatch), latent_noise=noise, keep_mask=mask, ramp=ramp, share=share
        )

    def _learning_rate(self) -> float:
        """Return the rate of the next step."""
        warm = min(1.0, (self.position.step + 1) / max(1, self.config.warm_up_steps))
        return self.config.learning_rate * self.position.rate_factor * warm

    def _effects_kl(self) -> float:
        """Return the weighted KL of the random effects."""
        weights = self.network.kl_weights
        tables = self.engine.effect_tables()
        return sum(weights[layer] * table_kl(table) for layer, table in tables.items())

    def _named(self, split: str, terms: NDArray[np.float64], kl: float) -> dict[str, float]:
        """Return terms by name; the total includes the KL of the random effects."""
        named = {
            f"{split}_{n}": float(t) for n, t in zip(self.network.reported, terms, strict=True)
        }
        if self.network.effect_widths:
            named[f"{split}_effects_kl"] = kl
            named[f"{split}_total"] += kl
        return named

    def _recover(self, terms: NDArray[np.float64], feeds: Feeds | None, place: str) -> None:
        """Go back to the last good state with a lower rate; give up at the second time."""
        term = self.network.reported[int(np.flatnonzero(~np.isfinite(terms))[0])]
        if self._good is None:
            raise RuntimeError("no state to go back to")
        recoveries = self.position.recoveries
        state, record = self._good
        self.engine.load_state(state)
        self.position = position_of(record)
        if recoveries > 0:
            error = DivergedError(
                f"The loss term '{term}' of model '{self.network.name}' became non-finite in "
                f"{place}, most likely by cells of batch '{self._suspect(feeds)}'; lowering the "
                "learning rate once did not help. Try a smaller --learning-rate, or look at these "
                "cells."
            )
            raise self.peers.everyones(error)
        self.position.recoveries = recoveries + 1
        self.position.rate_factor *= RECOVERY_DROP
        self._remember_good()

    def _suspect(self, feeds: Feeds | None) -> str:
        """Name the batch whose cells have the largest loss under the last good weights, on any rank."""
        own = (-1.0, -math.inf) if feeds is None else self._worst_batch(feeds)
        found = self.peers.gather(np.array(own))
        return self.data.batch_levels[int(found[found[:, 1].argmax(), 0])]

    def _worst_batch(self, feeds: Feeds) -> tuple[int, float]:
        """Return the batch of a block whose cells have the largest loss, and that loss."""
        worst, worst_value = -1, -math.inf
        for code in np.unique(feeds.batch_codes):
            # Repeated up to one size, since backends build a graph for each.
            own = np.resize(np.flatnonzero(feeds.batch_codes == code), feeds.batch_codes.size)
            part = Feeds(
                x=feeds.x[own],
                batch_codes=feeds.batch_codes[own],
                label_codes=feeds.label_codes[own],
                frozen_latent=None if feeds.frozen_latent is None else feeds.frozen_latent[own],
            )
            value = float(self.engine.evaluate(part)[1])
            if not math.isfinite(value) or value > worst_value:
                worst, worst_value = int(code), value if math.isfinite(value) else math.inf
        return worst, worst_value

    def _remember_good(self, state: State | None = None) -> None:
        """Keep the present state, of which a copy may be given, as one to go back to.

        Done at validations alone: were it done at checkpoints too, the clock would decide where a
        diverging fit goes back to.
        """
        self._good = (state or self.engine.state(), record_of(self.position))

    def _save_if_due(self) -> None:
        """Write a checkpoint after an interrupt, at the end and from time to time; pass interrupts on."""
        if self._is_save_due():
            self._saved_at = time.monotonic()
            if self.checkpoint is not None:
                self._save(self.checkpoint)
        if self._must_stop:
            raise KeyboardInterrupt

    def _is_save_due(self) -> bool:
        """Say whether a checkpoint is to be written now."""
        waited = time.monotonic() - self._saved_at
        return self._must_stop or self.position.is_over or waited >= self.config.checkpoint_every_s

    @property
    def _must_stop(self) -> bool:
        """Whether the fit was interrupted, as far as all ranks know."""
        return self._interrupted if self.peers.world_size == 1 else self._all_stop

    def _save(self, path: Path) -> None:
        """Write the present state, the one to go back to and the best one; equal ones only once."""
        if self._good is None:
            raise RuntimeError("no state to go back to")
        good, good_position = self._good
        position = record_of(self.position)
        now = good if position == good_position else self.engine.state()
        named = {"now": now, "good": good, "best": self._best}
        place = {name: next(n for n in named if named[n] is state) for name, state in named.items()}
        states = {name: named[name] for name in set(place.values())}
        record = {"position": position, "good_position": good_position, "place": place}
        write_checkpoint(path, states, record)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let Ctrl-C end the fit between two steps, after a checkpoint; a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum: int, frame: Any) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        previous = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


def _n_cells(feeds: Feeds) -> int:
    """Return the cells of a minibatch over all ranks."""
    return len(feeds.batch_codes if feeds.share is None else feeds.share.batch_codes)


def _peak_memory() -> int:
    """Return the most memory this process has held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
