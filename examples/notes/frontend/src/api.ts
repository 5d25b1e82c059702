import { byId } from "./dom";

/** Ask the backend for JSON. Anything but a JSON success is an error that says what was asked and what came back. */
export async function request<Answer>(method: string, path: string, body?: BodyInit): Promise<Answer> {
  const asked = `${method} ${path}`;
  const response = await fetch(path, { method, body, headers: { accept: "application/json" } }).catch((cause) => {
    throw new Error(`${asked}: no answer`, { cause });
  });
  if (response.status === 204) return undefined as Answer;
  const isJson = response.headers.get("content-type")?.startsWith("application/json");
  const answer = isJson ? await response.json() : undefined;
  if (!response.ok) throw new Error(`${asked}: ${response.status} ${answer?.detail ?? response.statusText}`);
  if (!isJson) throw new Error(`${asked}: an answer that is not JSON`);
  return answer;
}

/** Do what was asked for, and show the reason on the page if it fails. */
export async function attempt(action: () => Promise<void>): Promise<void> {
  const status = byId("status");
  status.textContent = "";
  try {
    await action();
  } catch (error) {
    console.error(error);
    status.textContent = error instanceof Error ? error.message : String(error);
  }
}
