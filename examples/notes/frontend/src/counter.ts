// This count lives as long as the page does: it is lost on a reload, and only then.
let count = 0;

export function startCounter(button: HTMLButtonElement): void {
  const show = () => (button.textContent = `Count: ${count}`);
  button.addEventListener("click", () => {
    count += 1;
    show();
  });
  show();
}
