"""The list of cases, in the order in which they are run."""

from . import floods, framing, pipelines, slow, tools


class Case:
    """A case, and what it needs and may cost."""

    def __init__(self, run, growth_mib=64, crowded=False, tool=None):
        self.run = run
        # How many MiB the server may grow by.
        self.growth_mib = growth_mib
        # It is run where there are few descriptors, too.
        self.crowded = crowded
        self.tool = tool


CASES = [
    Case(floods.bursts),
    Case(slow.slow_bodies),
    Case(slow.slow_readers),
    Case(slow.half_heads),
    Case(slow.silent),
    Case(pipelines.unread_pipelines),
    Case(pipelines.pipeline_overrun, crowded=True),
    Case(pipelines.deep_pipelines, crowded=True),
    Case(floods.header_lines, growth_mib=20, crowded=True),
    Case(floods.header_line, growth_mib=20, crowded=True),
    Case(floods.chunk_size, growth_mib=20, crowded=True),
    Case(floods.floods_again, growth_mib=20, crowded=True),
    Case(framing.huge_lengths, crowded=True),
    Case(framing.smuggling, crowded=True),
    Case(framing.truncated_uploads, crowded=True),
    Case(slow.small_windows),
    Case(pipelines.expect_pipelines),
    Case(framing.reused_ports, crowded=True),
    Case(framing.refused_upload, crowded=True),
    Case(floods.http2_prefaces, crowded=True),
    Case(floods.no_requests, crowded=True),
    Case(floods.beyond_ascii, crowded=True),
    Case(floods.resets, crowded=True),
    Case(tools.slowhttptest_heads, tool="slowhttptest"),
    Case(tools.slowhttptest_bodies, tool="slowhttptest"),
    Case(tools.slowhttptest_reads, tool="slowhttptest"),
    Case(tools.apache_bench, tool="ab"),
]
