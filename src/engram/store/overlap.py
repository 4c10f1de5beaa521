"""Reading, working and writing at the same time, each one step apart."""

from concurrent.futures import ThreadPoolExecutor


class Overlap:
    """A reader one step ahead of a loop, and a writer one step behind it.

    Memory holds at most what is being read, worked on and written: three steps.  An error of
    the reader or the writer is raised in the loop, at the latest when the block ends.
    """

    def __enter__(self):
        self.reader, self.writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.last = None
        return self

    def ahead(self, read, spans):
        """(span, read(span)) of each span; the next is read while the caller works."""
        coming = [self.reader.submit(read, span) for span in spans[:1]]
        for i, span in enumerate(spans):
            rows = coming.pop().result()
            coming += [self.reader.submit(read, following) for following in spans[i + 1 : i + 2]]
            yield span, rows

    def behind(self, write, *arguments):
        """Call `write` while the caller goes on, after the call before has ended."""
        self._wait()
        self.last = self.writer.submit(write, *arguments)

    def _wait(self):
        if self.last:
            self.last.result()

    def __exit__(self, kind, error, traceback):
        self.reader.shutdown(cancel_futures=True)
        self.writer.shutdown()
        if kind is None:
            self._wait()
