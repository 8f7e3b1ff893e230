-- c15t: MODE is check or write, of random ones of SUBJECTS subjects.
package.path = debug.getinfo(1, "S").source:match("^@?(.*/)") .. "?.lua;" .. package.path
local lib = require("lib")
local subjects, mode = tonumber(os.getenv("SUBJECTS")), os.getenv("MODE")

function init()
  math.randomseed(os.time())
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  local subject = math.random(0, subjects - 1)
  if mode == "check" then
    return wrk.format("GET", "/consents/check?externalId=user-" .. subject .. "&type=cookie_banner")
  end
  -- Its ids are base58, which has no zero.
  local id = string.format("%08d", subject):gsub("0", "z")
  local measurement = math.random(0, 1) == 1 and "true" or "false"
  return wrk.format("POST", "/subjects", nil, string.format(
    '{"type":"cookie_banner","subjectId":"sub_%s","externalSubjectId":"user-%d","domain":"example.com",'
    .. '"preferences":{"necessary":true,"measurement":%s,"marketing":false},"givenAt":1767225600000,"metadata":{}}',
    id, subject, measurement))
end

function done(summary, latency)
  lib.tell(summary, latency)
end
