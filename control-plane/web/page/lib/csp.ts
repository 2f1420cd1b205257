// The nonce of this page's load, for the style elements that libraries make.

export const nonce = document.querySelector<HTMLMetaElement>('meta[name="berth-nonce"]')?.content ?? "";

/** xterm.js makes style elements and takes no nonce: give it to each as it is created. */
export function nonceForStyles(): void {
  const create = document.createElement.bind(document);
  document.createElement = ((name: string, options?: ElementCreationOptions) => {
    const element = create(name, options);
    if (name === "style") element.nonce = nonce;
    return element;
  }) as typeof document.createElement;
}
