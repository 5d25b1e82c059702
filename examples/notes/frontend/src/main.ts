import { startCounter } from "./counter";
import { byId } from "./dom";
import { startEvents } from "./events";
import { greeting } from "./greeting";
import { loadNotes, startNotes } from "./notes";
import { startSocket } from "./socket";
import { startUpload } from "./upload";

function greet(text: string): void {
  byId("greeting").textContent = text;
}

greet(greeting);
startCounter(byId<HTMLButtonElement>("counter"));
startNotes();
startEvents(loadNotes);
startSocket();
startUpload();

// A new greeting is put in place; every other module stays as it is, and so does its state.
import.meta.hot?.accept("./greeting", (module) => {
  if (module) greet(module.greeting);
});
