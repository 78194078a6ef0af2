"""Ranks that speak through TensorFlow: NCCL between GPUs, gRPC in a ring between CPUs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, override

import numpy as np

from medl_scale.errors import RankLostError
from medl_scale.train.collective import Peers
from medl_scale.train.meeting import await_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from medl_scale.ranks import Ranks
    from medl_scale.train.collective import Floats

    Tensor = Any

__all__ = ["TensorFlowPeers", "meet"]

ALONE_FROM = 1 << 16
"""Values from which a gradient is summed by itself: packing it would copy it twice."""
GATHERED_UP_TO = 1 << 16
"""Values of all ranks up to which CPUs gather them and add: one round of messages, where a sum by
scattered parts takes two; measured at 0.7 against 1.3 ms of CPU time on two ranks."""
GATHER_GROUP = 1 << 20
"""Number of the group of these; the strategy counts its own from 1."""
CALL_STRIDE = 64
"""Gathers that one call of a graph may make; each needs a number that no other under way has."""
MOST_CALLS = 1 << 24

MEET_TIMEOUT_S = 120
"""How long ranks wait for each other; Python and TensorFlow take half a minute at worst."""
_ABORTED = "Collective ops is aborted by: "

_met: list[TensorFlowPeers] = []
"""Whom this process has met. TensorFlow can set up collectives once in a process."""


def meet(ranks: Ranks, n_threads: int) -> TensorFlowPeers:
    """Return the peers of this process, as `collective.join` describes."""
    if not _met:
        _met.append(TensorFlowPeers(ranks, n_threads))
    peers = _met[0]
    if peers.ranks != ranks:
        raise RankLostError(
            f"This process is rank {peers.rank} at {', '.join(peers.ranks.addresses)} and cannot "
            f"become rank {ranks.rank} at {', '.join(ranks.addresses)}. Start a fresh process."
        )
    return peers


class TensorFlowPeers(Peers):
    """See `Peers`."""

    def __init__(self, ranks: Ranks, n_threads: int) -> None:
        import tensorflow as tf

        from medl_scale.train.engine import native_log_kept_back

        await_all(ranks, MEET_TIMEOUT_S)
        self.ranks = ranks
        self.rank, self.world_size = ranks.rank, ranks.world_size
        distribute = tf.distribute
        resolver = distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(ranks.addresses)}),
            task_type="worker",
            task_id=ranks.rank,
            rpc_layer="grpc",
        )
        kinds = distribute.experimental.CommunicationImplementation
        kind = kinds.NCCL if tf.config.list_physical_devices("GPU") else kinds.RING
        try:
            with native_log_kept_back():
                tf.config.threading.set_intra_op_parallelism_threads(n_threads)
                tf.config.threading.set_inter_op_parallelism_threads(1)
                _limit_wait(self.world_size)
                self._strategy = distribute.MultiWorkerMirroredStrategy(
                    cluster_resolver=resolver,
                    communication_options=distribute.experimental.CommunicationOptions(
                        implementation=kind
                    ),
                )
        except (RuntimeError, tf.errors.OpError) as error:
            raise RankLostError(
                f"Rank {ranks.rank} of {ranks.world_size} could not meet the others at "
                f"{', '.join(ranks.addresses)}: {_plain(error)}. Start all ranks again, in fresh "
                "processes that have not used TensorFlow, at free ports."
            ) from error
        self._gathers = kind is kinds.RING
        self._token = tf.Variable(0.0)
        """Keeps the gathers of a graph in one order."""
        self._n_calls = 0
        self._next_key: Tensor = None
        """While a graph is traced: the number of its next gather."""
        self._sum, self._sum32 = (
            self.graph(self.total, [tf.TensorSpec([None], dtype)])
            for dtype in (tf.float64, tf.float32)
        )

    def graph(
        self, function: Callable[..., Any], signature: Sequence[Any] | None = None
    ) -> Callable[..., Any]:
        """Return a function compiled to a graph in which `total` may be used.

        With a signature, one graph serves all sizes that it leaves open.
        """
        import tensorflow as tf

        def replica(first_key: Tensor, *arguments: Any) -> Any:
            self._next_key, before = first_key, self._next_key
            try:
                return function(*arguments)
            finally:
                self._next_key = before

        key = tf.TensorSpec([], tf.int32)
        compiled = tf.function(
            lambda *arguments: self._strategy.run(replica, args=arguments),
            input_signature=None if signature is None else [key, *signature],
            autograph=False,
        )

        def call(*arguments: Any) -> Any:
            self._n_calls += 1
            first_key = self._n_calls % MOST_CALLS * CALL_STRIDE
            return compiled(tf.constant(first_key, tf.int32), *arguments)

        return call

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over ranks, inside a graph; gradients flow through it."""
        import tensorflow as tf

        n_values = tensor.shape.num_elements()
        if self._gathers and n_values and n_values * self.world_size <= GATHERED_UP_TO:

            @tf.custom_gradient  # type: ignore[untyped-decorator]
            def sum_up(own: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
                # The gradient of a sum over ranks is the sum of the ranks' gradients.
                return self._gathered(own), self._gathered

            return sum_up(tensor)
        context = tf.distribute.get_replica_context()
        # An argument of the graph is on no device yet, and the strategy asks for one.
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(tensor))

    def _gathered(self, own: Tensor) -> Tensor:
        """Return the sum of small tensors of equal shape, which every rank adds in the same order."""
        import tensorflow as tf

        everyones = tf.raw_ops.CollectiveGatherV2(
            input=own[None],
            group_size=self.world_size,
            group_key=GATHER_GROUP,
            instance_key=self._next_key,
            ordering_token=[self._token.handle],
            communication_hint="ring",
        )
        self._next_key = self._next_key + 1
        everyones.set_shape([self.world_size, *own.shape])
        return tf.reduce_sum(everyones, axis=0)

    def totals(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the sums of several tensors over ranks; small ones travel together."""
        import tensorflow as tf

        small = [t for t in tensors if t.shape.num_elements() < ALONE_FROM]
        packed = self.total(tf.concat([tf.reshape(t, [-1]) for t in small], axis=0))
        parts = iter(tf.split(packed, [t.shape.num_elements() for t in small]))
        return [
            tf.reshape(next(parts), t.shape)
            if t.shape.num_elements() < ALONE_FROM
            else self.total(t)
            for t in tensors
        ]

    @override
    def sum(self, values: Floats) -> Floats:
        return np.asarray(self._sum(values))

    @override
    def sum32(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self._sum32(values))

    @override
    @contextmanager
    def guarded(self) -> Iterator[None]:
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError as error:
            if not _is_loss(error):
                self._abort(error)
                raise
            raise RankLostError(
                f"Rank {self.rank} of {self.world_size} lost another: {_plain(error)}. This process "
                "must end; the fit continues from its last checkpoint when all ranks are started "
                "again."
            ) from error
        except BaseException as error:
            if error is not self.agreed and not isinstance(error, RankLostError):
                self._abort(error)
            raise

    def _abort(self, error: BaseException) -> None:
        """End this rank's part in all collectives, for which the others then wait no longer."""
        from tensorflow.python.eager import context

        context.context().abort_collective_ops(10, f"rank {self.rank} failed: {_plain(error)}")


def _limit_wait(world_size: int) -> None:
    """Bound the wait for a first rank that died just after it was met; TensorFlow's own is an hour."""
    from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
    from tensorflow.python.eager import context

    # As MultiWorkerMirroredStrategy does itself, for which there is no public way; TensorFlow is
    # pinned to the one minor version that this was tried with.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        cluster_register_timeout_in_ms=MEET_TIMEOUT_S * 1000,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=world_size)
        ],
    )


def _is_loss(error: Any) -> bool:
    """Say whether an error of TensorFlow comes from another rank's end."""
    import tensorflow as tf

    errors = tf.errors
    known = (
        errors.UnavailableError, errors.AbortedError, errors.CancelledError,
        errors.DeadlineExceededError,
    )  # fmt: skip
    return isinstance(error, known) or "ollective" in str(error)


def _plain(error: BaseException) -> str:
    """Return the telling line of an error, without TensorFlow's account of its graph."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if _ABORTED in line), lines[-1] if lines else "")
    return told.rpartition(_ABORTED)[2].rstrip(" .:") or type(error).__name__
