-- GET of random customers' consents: WHAT comes after /consent, CUSTOMERS is how many there are, KEY is the API key.
package.path = debug.getinfo(1, "S").source:match("^@?(.*/)") .. "?.lua;" .. package.path
local lib = require("lib")
local customers, what = tonumber(os.getenv("CUSTOMERS")), os.getenv("WHAT")

function init()
  math.randomseed(os.time())
  wrk.headers["Authorization"] = "Bearer " .. os.getenv("KEY")
end

function request()
  return wrk.format("GET", "/v1/customers/" .. lib.customer(math.random(0, customers - 1)) .. "/consent" .. what)
end

function done(summary, latency)
  lib.tell(summary, latency)
end
