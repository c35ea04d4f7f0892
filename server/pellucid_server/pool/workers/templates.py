"""Keeps one template of the workers ready."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping, Sequence

from pellucid_server.template import Template, TemplateError

_log = logging.getLogger(__name__)

READY_SECONDS = 120.0
"""Time for the imports, from a slow disk too."""

_STABLE_SECONDS = 10.0
"""A template that died sooner is not started again before a worker needs it."""


class Templates:
    """One template at a time: started with the first worker, and again when it is lost.

    Parameters
    ----------
    command
        Runs a template; the number of a descriptor is appended.
    environment
        Its environment variables, which the workers inherit.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._starting: asyncio.Task[Template] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def ready(self) -> Template:
        """Return the template once it is ready; start it if there is none.

        Raises
        ------
        TemplateError
            It could not start; the next call tries again.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), name="start the template of the workers")
        starting = self._starting
        try:
            return await asyncio.shield(starting)
        except TemplateError:
            if self._starting is starting:
                self._starting = None
            raise

    async def discard(self, template: Template) -> None:
        """End a template that is of no use, unless that was done."""
        if self._is_current(template):
            self._starting = None
            await _close(template)

    async def close(self) -> None:
        """End the template, and start no other."""
        tasks = [task for task in (self._watching, self._starting) if task is not None]
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Template):
                await _close(outcome)
        self._starting = self._watching = None

    def _is_current(self, template: Template) -> bool:
        starting = self._starting
        return starting is not None and starting.done() and not starting.exception() and starting.result() is template

    async def _start(self) -> Template:
        loop = asyncio.get_running_loop()
        launching = loop.run_in_executor(None, Template.start, self._command, self._environment)
        try:
            template = await asyncio.shield(launching)
        except OSError as error:
            raise TemplateError(f"cannot be started: {error.strerror}") from error
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await _close(await launching)
            raise
        try:
            async with asyncio.timeout(READY_SECONDS):
                await _readable(template.connection.fileno())
            template.greet()
        except BaseException as error:
            await _close(template)
            if isinstance(error, TimeoutError):
                raise TemplateError(f"was not ready within {READY_SECONDS:g} s") from None
            raise
        if self._watching is not None:
            self._watching.cancel()
        self._watching = asyncio.create_task(self._watch(template), name="watch the template of the workers")
        return template

    async def _watch(self, template: Template) -> None:
        """Wait until a template ends by itself, and start another in its place: the next worker may be lost too."""
        began = time.monotonic()
        descriptor = os.pidfd_open(template.process.pid)
        try:
            await _readable(descriptor)
        finally:
            os.close(descriptor)
        if not self._is_current(template):
            return
        self._starting = None
        status = await _close(template)
        _log.error("the template of the workers was lost (exit status %s)", status)
        if self._starting is None and time.monotonic() - began > _STABLE_SECONDS:
            with contextlib.suppress(TemplateError):
                await self.ready()


async def _close(template: Template) -> int | None:
    return await asyncio.get_running_loop().run_in_executor(None, template.close)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, lambda: None if seen.done() else seen.set_result(None))
    try:
        await seen
    finally:
        loop.remove_reader(descriptor)
