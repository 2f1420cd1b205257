// xterm's colours: the page's tokens and sixteen ANSI colours for each scheme.

import type { ITheme } from "@xterm/xterm";

const dark: ITheme = {
  black: "#484f58", red: "#ff7b72", green: "#3fb950", yellow: "#d29922",
  blue: "#58a6ff", magenta: "#bc8cff", cyan: "#39c5cf", white: "#b1bac4",
  brightBlack: "#8b949e", brightRed: "#ffa198", brightGreen: "#56d364", brightYellow: "#e3b341",
  brightBlue: "#79c0ff", brightMagenta: "#d2a8ff", brightCyan: "#56d4dd", brightWhite: "#ffffff",
};

const light: ITheme = {
  black: "#24292f", red: "#cf222e", green: "#116329", yellow: "#7d4e00",
  blue: "#0969da", magenta: "#8250df", cyan: "#1b7c83", white: "#6e7781",
  brightBlack: "#57606a", brightRed: "#a40e26", brightGreen: "#1a7f37", brightYellow: "#633c01",
  brightBlue: "#0550ae", brightMagenta: "#6639ba", brightCyan: "#155b60", brightWhite: "#424a53",
};

export const lightScheme = matchMedia("(prefers-color-scheme: light)");

export function terminalTheme(): ITheme {
  const style = getComputedStyle(document.documentElement);
  const token = (name: string) => style.getPropertyValue(name).trim();
  return {
    ...(lightScheme.matches ? light : dark),
    background: token("--bg0"),
    foreground: token("--fg"),
    cursor: token("--accent"),
    cursorAccent: token("--bg0"),
    selectionBackground: token("--select"),
  };
}
