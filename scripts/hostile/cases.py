"""The list of cases, in the order in which they are run."""

from . import floods, framing, pipelines, slow, tools


class Case:
    """A case, and what it needs and may cost."""

    def __init__(self, run, growth_mib=64, with_few=False, tool=None):
        self.run = run
        # How many MiB the server may grow by.
        self.growth_mib = growth_mib
        # It is run with few descriptors, too.
        self.with_few = with_few
        self.tool = tool


CASES = [
    Case(floods.bursts),
    Case(slow.slow_bodies),
    Case(slow.slow_readers),
    Case(slow.half_heads),
    Case(slow.silent),
    Case(pipelines.unread_pipelines),
    Case(pipelines.pipeline_overrun, with_few=True),
    Case(pipelines.deep_pipelines, with_few=True),
    Case(floods.header_lines, growth_mib=20, with_few=True),
    Case(floods.header_line, growth_mib=20, with_few=True),
    Case(floods.chunk_size, growth_mib=20, with_few=True),
    Case(floods.floods_again, growth_mib=20, with_few=True),
    Case(framing.huge_lengths, with_few=True),
    Case(framing.smuggling, with_few=True),
    Case(framing.truncated_uploads, with_few=True),
    Case(slow.small_windows),
    Case(pipelines.expect_pipelines),
    Case(framing.reused_ports, with_few=True),
    Case(framing.refused_upload, with_few=True),
    Case(floods.http2_prefaces, with_few=True),
    Case(floods.no_requests, with_few=True),
    Case(floods.beyond_ascii, with_few=True),
    Case(floods.resets, with_few=True),
    Case(tools.slowhttptest_heads, tool="slowhttptest"),
    Case(tools.slowhttptest_bodies, tool="slowhttptest"),
    Case(tools.slowhttptest_reads, tool="slowhttptest"),
    Case(tools.apache_bench, tool="ab"),
]
