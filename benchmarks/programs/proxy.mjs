// A proxy in Node with http-proxy-3.  Usage: node proxy.mjs PORT BACKEND_PORT FRONTEND_PORT

import http from "node:http"
import { createProxyServer } from "http-proxy-3"

const [port, backend, frontend] = process.argv.slice(2)
const agent = new http.Agent({ keepAlive: true, maxFreeSockets: 64 })
const to = (target, options) =>
  createProxyServer({ target: `http://127.0.0.1:${target}`, agent, ...options }).on("error", (_, req, res) => res.destroy())
const first = to(backend, { selfHandleResponse: true })
const second = to(frontend, {})

first.on("proxyRes", (answer, req, res) => {
  if (answer.statusCode === 404 && req.method === "GET") {
    answer.resume()
    second.web(req, res)
    return
  }
  res.writeHead(answer.statusCode, answer.headers)
  answer.pipe(res)
})

const server = http.createServer((req, res) => first.web(req, res))
server.on("upgrade", (req, socket, head) => first.ws(req, socket, head))
server.keepAliveTimeout = 600_000
server.listen(Number(port), "127.0.0.1")
