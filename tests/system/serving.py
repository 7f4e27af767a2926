"""A small asyncio server in a thread of its own: what the sink and the proxy have in common."""

import asyncio
import contextlib
import threading


class ThreadedServer:
    """Listens on loopback from construction to `stop`, at a free port unless one is given; a subclass serves each
    connection in `serve`."""

    def __init__(self, host="127.0.0.1", port=0):
        self.host, self.port = host, port
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    async def serve(self, reader, writer):
        raise NotImplementedError

    def call(self, function):
        """Runs `function` in the server's thread and waits for it, so that its effect is there on return."""
        done = threading.Event()

        def run():
            function()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait(5)

    def stop(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _serve(self, reader, writer):
        # A task that ends as cancelled would be reported as an error by asyncio's own callback.
        with contextlib.suppress(OSError, EOFError, ValueError, asyncio.CancelledError):
            await self.serve(reader, writer)
        writer.close()

    def _run(self, started):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, self.host, self.port, backlog=512, limit=1 << 27)
        )
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
