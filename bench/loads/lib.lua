-- Shared by wrk's scripts: the n-th customer, as public.bench_customer makes it; and what was seen, as a line of JSON.
local bit = require("bit")
local lib = {}

local function product(n, factor)
  return bit.tobit((n * factor) % 4294967296)
end

local function unsigned(n)
  return n % 4294967296
end

function lib.customer(n)
  local a, b = product(n, 2654435761), product(n, 2246822519)
  local c, d = product(n, 3266489917), product(n, 668265263)
  return string.format("%08x-%04x-4%03x-8%03x-%05x%07x",
    unsigned(bit.bxor(a, bit.rshift(a, 15))), bit.rshift(b, 16), bit.band(b, 4095),
    bit.rshift(c, 20), bit.band(c, 1048575), bit.band(d, 268435455))
end

function lib.tell(summary, latency)
  local errors = summary.errors
  io.write(string.format('{"requests":%d,"rate":%.3f,"refused":%d,"p50_ms":%.4f,"p99_ms":%.4f}\n',
    summary.requests, summary.requests / summary.duration * 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end

return lib
