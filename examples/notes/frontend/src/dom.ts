/** The element with this id, which index.html is known to have. */
export function byId<Type extends Element = HTMLElement>(id: string): Type {
  const element = document.querySelector<Type>(`#${id}`);
  if (!element) throw new Error(`index.html has no #${id}`);
  return element;
}
