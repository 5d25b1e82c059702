-- What wrk sends: the same request again and again, with a plain head or a browser's: 14 lines, and as Referer one
-- of 1,000 modules after the other. It prints one line of JSON in the end.
-- Usage: wrk -s heads.lua URL -- plain|browser

local before, after, count = "", "", 0
local is_browser = false

local BROWSER = {
  "Connection: keep-alive",
  'sec-ch-ua: "Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
  "sec-ch-ua-mobile: ?0",
  'sec-ch-ua-platform: "Linux"',
  "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
  "Accept: */*",
  "Sec-Fetch-Site: same-origin",
  "Sec-Fetch-Mode: cors",
  "Sec-Fetch-Dest: script",
  "Accept-Encoding: gzip, deflate, br, zstd",
  "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
  "Cookie: session=eyJ1c2VyIjogNDJ9.aSnMPg.4mJqkT0vY8m0u1G5v2cXw; theme=dark",
}

function init(args)
  is_browser = args[1] == "browser"
  local host = wrk.host .. ":" .. wrk.port
  before = "GET " .. wrk.path .. " HTTP/1.1\r\nHost: " .. host .. "\r\n"
  after = "\r\n"
  if is_browser then
    before = before .. table.concat(BROWSER, "\r\n") .. "\r\nReferer: http://" .. host .. "/src/module-"
    after = ".js\r\n\r\n"
  end
end

function request()
  if not is_browser then return before .. after end
  count = (count + 1) % 1000
  return before .. count .. after
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
