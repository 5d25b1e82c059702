import { Backoff } from "./backoff";
import { byId } from "./dom";

const output = byId("events");
const backoff = new Backoff();

/** Show the newest server-sent event, and call `onReturn` each time the server is back after it was gone. */
export function startEvents(onReturn: () => void): void {
  let wasLost = false;

  function connect(): void {
    const source = new EventSource("/events");
    source.onopen = () => {
      backoff.reset();
      if (wasLost) onReturn();
      wasLost = false;
    };
    source.onmessage = ({ data }) => {
      const tick = JSON.parse(data) as { count: number; time: string };
      output.textContent = `#${tick.count} at ${new Date(tick.time).toLocaleTimeString()}`;
    };
    source.onerror = () => {
      wasLost = true;
      output.textContent = "waiting for the server";
      // A lost connection is tried again by the browser, but an answer other than 200 is final: then we try.
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, backoff.next());
    };
  }

  connect();
}
