"""Work carried to worker processes, whatever it is: independent tasks, and blocks of one computation.

- `tasks`: a task, its outcome, and one attempt at it
- `schedule`: tasks over the workers of any Dask client, again when processes die (`attempts`, `watch`,
  `lease`, `limits`)
- `gang`: several workers for one task (`member_task`, `member_process`, `member`, `messages`)
- `clusters`: getting workers: on this machine, of a running cluster, over SSH, Slurm, Kubernetes
- `local`: tasks on workers, or in this process
- `machine`: the cores and GPUs of this machine
- `blocks`: blocks of one computation over the workers of any Dask client
- `interrupts`: Ctrl-C ends the parent's wait, and the parent its workers
"""

from medl_scale.distribute.blocks import map_on_client
from medl_scale.distribute.local import run_tasks
from medl_scale.distribute.tasks import OnUpdate, Outcome, State, Task

__all__ = ["OnUpdate", "Outcome", "State", "Task", "map_on_client", "run_tasks"]
