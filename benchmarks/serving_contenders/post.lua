-- wrk's script: posts the files that $BODIES lists, as $KIND, and prints what came of it as JSON
local bodies, at = {}, 0
for path in io.lines(os.getenv("BODIES")) do
  local file = io.open(path, "rb")
  bodies[#bodies + 1] = file:read("*a")
  file:close()
end
request = function()
  at = at % #bodies + 1
  return wrk.format("POST", "/", {["Content-Type"] = os.getenv("KIND")}, bodies[at])
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "errors": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
