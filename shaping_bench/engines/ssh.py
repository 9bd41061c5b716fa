"""A host that serves over ssh, as a cluster of dask's has it."""

import asyncio
import contextlib
import shlex
from collections.abc import Sequence

from distributed.deploy.spec import ProcessInterface

SECONDS_BETWEEN_STARTS = 10.0
"""Of a worker that has ended although it was needed."""


class OverSsh(ProcessInterface):
    """``shaping-bench worker`` on a host, by the user's own ssh with its keys, agents and jump hosts.

    Args:
      scheduler: its address.
      name: of the worker.
      host: as ssh knows it.
      ssh: the command.
      prologue: shell commands before.
      python: the interpreter there.
      words: options of ``shaping-bench worker``.
    """

    def __init__(
        self,
        scheduler: str,
        *,
        name: str,
        host: str,
        ssh: Sequence[str],
        prologue: Sequence[str],
        python: str,
        words: Sequence[str],
    ) -> None:
        super().__init__(scheduler=scheduler, name=name)
        worker = shlex.join([python, "-m", "shaping_bench", "worker", scheduler, *words])
        self.command = [*ssh, host, "; ".join([*prologue, f"exec {worker}"])]
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await super().start()
        self.task = asyncio.ensure_future(self._keep())

    async def _keep(self) -> None:
        """Starts it again whenever it ends."""
        while True:
            # The other end of a pipe: the worker ends when its input does, and so with us, however we end.
            process = await asyncio.create_subprocess_exec(*self.command, stdin=asyncio.subprocess.PIPE)
            try:
                await process.wait()
            except asyncio.CancelledError:
                process.terminate()
                await process.wait()
                raise
            await asyncio.sleep(SECONDS_BETWEEN_STARTS)

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
        await super().close()
