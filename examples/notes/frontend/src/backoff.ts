/** How long to wait before each new try: a quarter of a second, half a second, then a second each time. */
export class Backoff {
  #milliseconds = 250;

  next(): number {
    const delay = this.#milliseconds;
    this.#milliseconds = Math.min(delay * 2, 1000);
    return delay;
  }

  reset(): void {
    this.#milliseconds = 250;
  }
}
