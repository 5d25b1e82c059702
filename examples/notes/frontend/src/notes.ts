import { attempt, request } from "./api";
import { byId } from "./dom";

interface Note {
  id: number;
  text: string;
}

const list = byId("notes");
const input = byId<HTMLInputElement>("note-text");

function item(note: Note): HTMLLIElement {
  const text = document.createElement("span");
  text.textContent = note.text;
  const button = document.createElement("button");
  button.textContent = "×";
  button.type = "button";
  button.ariaLabel = `Delete: ${note.text}`;
  button.addEventListener("click", () =>
    attempt(async () => {
      await request("DELETE", `/api/notes/${note.id}`);
      row.remove();
    }),
  );
  const row = document.createElement("li");
  row.append(text, button);
  return row;
}

export function loadNotes(): Promise<void> {
  return attempt(async () => {
    const notes = await request<Note[]>("GET", "/api/notes");
    list.replaceChildren(...notes.map(item));
  });
}

export function startNotes(): void {
  byId("note-form").addEventListener("submit", (event) => {
    event.preventDefault();
    void attempt(async () => {
      const note = await request<Note>("POST", "/api/notes", JSON.stringify({ text: input.value }));
      list.append(item(note));
      input.value = "";
    });
  });
  void loadNotes();
}
