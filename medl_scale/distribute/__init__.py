"""Independent tasks carried to worker processes, whatever the tasks do.

- `tasks`: a task, its outcome, and one attempt at it
- `schedule`: tasks over the workers of any Dask client
- `local`: worker processes on this machine
- `interrupts`: Ctrl-C ends the parent's wait, and the parent its workers
"""

from medl_scale.distribute.local import run_tasks
from medl_scale.distribute.tasks import OnUpdate, Outcome, State, Task

__all__ = ["OnUpdate", "Outcome", "State", "Task", "run_tasks"]
