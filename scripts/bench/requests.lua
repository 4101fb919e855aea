-- What loads.py has wrk send, and the figures that it wants back.
--
-- BENCH_REQUESTS is a file of whole requests, each behind a line with its
-- length. Each thread sends them in turn, from a place of its own. With BENCH_NUMBER
-- they are forms, and each that is sent is given another number from that one on.

local requests = {}
local file = assert(io.open(os.getenv("BENCH_REQUESTS"), "rb"))
for length in file:lines() do
    requests[#requests + 1] = file:read(tonumber(length))
end
file:close()
local number = tonumber(os.getenv("BENCH_NUMBER"))

local threads = 0

function setup(thread)
    thread:set("turn", threads * (number and 10000000 or 7919))
    threads = threads + 1
end

if number then
    function request()
        turn = turn + 1
        return string.format(requests[turn % #requests + 1], number + turn)
    end
elseif #requests == 1 then
    -- wrk asks once for a request that does not change, and asks this.
    function wrk.format()
        return requests[1]
    end
else
    function request()
        turn = turn + 1
        return requests[turn % #requests + 1]
    end
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "us": %d, "p50": %d, "p99": %d, "p999": %d, "refused": %d, '
            .. '"socket_errors": %d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        latency:percentile(99.9),
        errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
