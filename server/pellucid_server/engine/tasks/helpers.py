"""Two helper processes: one for short calls, which stands ready, and one for long ones, which comes and goes.

One process that runs every call to its end makes a call of ten milliseconds wait behind one of twelve seconds.
Nothing long ever runs in the short process, so that short calls only wait for one another.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pellucid_server.engine.asking.duration import likely_seconds
from pellucid_server.engine.tasks import helper
from pellucid_server.engine.tasks.helper import Helper, Waitable
from pellucid_server.processes import CAN_ADOPT, Process
from pellucid_server.template import Role, Template, TemplateError

_log = logging.getLogger(__name__)

SHORT_SECONDS = 0.15
"""Most seconds that a call may be likely to take in the short process: the superpixels of 256 x 256 pixels."""

_IDLE_SECONDS = 60.0
"""Seconds without a call after which the long process ends and gives its memory back."""


class Helpers:
    """Runs each call in the process for its likely duration; in each process callers take turns.

    `load` are the modules that a process imports before its first call. `roles` are what else can be forked from the
    template of the processes.
    """

    def __init__(
        self,
        *,
        load: Sequence[str] = (),
        idle_seconds: float = _IDLE_SECONDS,
        roles: Mapping[str, Role] = MappingProxyType({}),
    ) -> None:
        self._template: Template | None = None
        self._roles = {"helper": helper.answer, **roles}
        self.short = Helper(load=load, name="short-helper", fork=self._fork)
        self.long = Helper(load=load, name="long-helper", idle_seconds=idle_seconds, fork=self._fork)

    def prepare(self) -> None:
        """Have the processes forked from what this one has imported; see `Template.fork_here` for what must hold."""
        if not CAN_ADOPT:
            return
        template = Template.fork_here("pellucid-templ", self._roles)
        try:
            template.greet()
        except TemplateError as error:
            self._lose(template, error)
        else:
            self._template = template

    def start(self) -> None:
        """Start the short process, without waiting for it; the long one starts with its first call."""
        self.short.start()

    def call(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        check: Callable[[], None],
        finished: Waitable | None = None,
        *,
        caller: str = "",
    ) -> Any:
        """Run a module-level function of the engine in one of the processes; see `Helper.call`.

        A function that does not declare how long it takes (`pellucid_server.engine.asking.duration`) counts as long.
        """
        chosen = self.short if likely_seconds(function, arguments) <= SHORT_SECONDS else self.long
        return chosen.call(function, arguments, check, finished, caller=caller)

    def close(self) -> None:
        """End both processes; calls that are not answered yet fail."""
        self.short.close()
        self.long.close()
        if self._template is not None:
            self._template.close()

    def fork(self, role: str, connection: int) -> Process | None:
        """Fork a process that does what `role` says on a descriptor; None if there is no template to do so."""
        # The threads of both helpers come here: one may find it lost while the other waits for it.
        template = self._template
        if template is None:
            return None
        try:
            return template.fork(role, [connection])
        except TemplateError as error:
            self._lose(template, error)
            return None

    def _fork(self, connection: int) -> Process | None:
        return self.fork("helper", connection)

    def _lose(self, template: Template, error: TemplateError) -> None:
        """Do without a template from now on: processes are started by their command."""
        self._template = None
        _log.error("the template of the helpers %s", error)
        template.close()
