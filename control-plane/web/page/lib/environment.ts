// What a person edits of a session's variables and secrets, and the change that it comes to.

import type { Environment, EnvironmentChange } from "../api/sessions";

export interface Row {
  id: number;
  name: string;
  value: string;
  secret: boolean;
  /** A secret that is kept already: its value is not known here, and an empty one leaves it as it is. */
  kept: boolean;
}

let number = 0;

export function newRow(secret: boolean): Row {
  number += 1;
  return { id: number, name: "", value: "", secret, kept: false };
}

export function rowsOf({ variables, secrets }: Environment): Row[] {
  const plain = Object.entries(variables).map(([name, value]) => ({ ...newRow(false), name, value }));
  return [...plain, ...secrets.map((name) => ({ ...newRow(true), name, kept: true }))];
}

/** What is wrong with a row among the others, or nothing. The server has the last word. */
export function faultOf(row: Row, rows: Row[]): string | undefined {
  const name = row.name.trim();
  if (!name) return row.value ? "It needs a name." : undefined;
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) return "A name has letters, digits and underscores, and no digit first.";
  if (name.startsWith("BERTH_")) return "Names that begin with BERTH_ are Berth's own.";
  if (rows.some((other) => other !== row && other.name.trim() === name)) return "This name is there twice.";
  if (row.secret && !row.kept && !row.value) return "A secret needs a value.";
  return undefined;
}

/** The change that makes what was there become what is edited. */
export function changeOf(rows: Row[], before: Environment): EnvironmentChange {
  const named = rows.filter((row) => row.name.trim());
  const variables = named.filter((row) => !row.secret).map((row) => [row.name.trim(), row.value]);
  const secrets = named.filter((row) => row.secret);
  const gone = before.secrets.filter((name) => !secrets.some((row) => row.name === name && row.kept));
  return {
    variables: Object.fromEntries(variables) as Record<string, string>,
    secrets: {
      ...Object.fromEntries(gone.map((name) => [name, null])),
      ...Object.fromEntries(secrets.filter((row) => row.value).map((row) => [row.name.trim(), row.value])),
    },
  };
}
