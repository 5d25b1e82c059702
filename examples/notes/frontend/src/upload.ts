import { attempt, request } from "./api";
import { byId } from "./dom";

const input = byId<HTMLInputElement>("upload-file");
const result = byId("upload-result");

export function startUpload(): void {
  input.addEventListener("change", () =>
    attempt(async () => {
      const file = input.files?.[0];
      if (!file) return;
      result.textContent = `Sending ${file.name} …`;
      try {
        const { bytes, sha256 } = await request<{ bytes: number; sha256: string }>("POST", "/api/upload", file);
        result.textContent = `${bytes} bytes, sha256 ${sha256}`;
      } catch (error) {
        result.textContent = `${file.name} did not arrive.`;
        throw error;
      }
    }),
  );
}
