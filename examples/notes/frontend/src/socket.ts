import { Backoff } from "./backoff";
import { byId } from "./dom";

const state = byId("ws-state");
const input = byId<HTMLInputElement>("ws-text");
const send = byId<HTMLButtonElement>("ws-send");
const echo = byId("ws-echo");
const backoff = new Backoff();

let socket: WebSocket;

function show(now: "connecting" | "open" | "closed"): void {
  state.textContent = now;
  state.dataset.state = now;
  send.disabled = now !== "open";
}

function connect(): void {
  show("connecting");
  socket = new WebSocket("/ws");
  socket.onopen = () => {
    backoff.reset();
    show("open");
  };
  socket.onmessage = ({ data }) => (echo.textContent = data);
  socket.onclose = () => {
    show("closed");
    setTimeout(connect, backoff.next());
  };
}

export function startSocket(): void {
  byId("ws-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (socket.readyState === WebSocket.OPEN) socket.send(input.value);
  });
  connect();
}
