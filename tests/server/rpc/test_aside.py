"""What runs beside the event loop, and what does not any more."""

import asyncio
import threading

import pytest
from pellucid_server.rpc.aside import Aside


def test_what_a_caller_who_left_was_waiting_for_is_never_begun():
    begun = []

    async def three_calls():
        aside, busy = Aside(), threading.Event()
        first = asyncio.create_task(aside.run(busy.wait))
        gone = asyncio.create_task(aside.run(lambda: begun.append("gone")))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        busy.set()
        assert await first
        await aside.run(lambda: begun.append("next"))
        aside.close()

    asyncio.run(three_calls())

    assert begun == ["next"]
