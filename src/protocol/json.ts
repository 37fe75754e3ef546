/** Checks of parsed JSON that JSON.parse does not make. The daemon and the CLI share them. */

/** Maximum number of nesting levels: far more than real metadata has, and far fewer than would overflow the stack. */
export const MAX_DEPTH = 128;

const NOT_A_NUMBER = `has a number beyond ${Number.MAX_VALUE}`;

/**
 * Checks a value without recursion, which could overflow the stack. @returns why it is not acceptable: it is too deep, has a
 * number that JSON cannot express, or has a key that would change a prototype if the value was copied carelessly
 */
export function findFlaw(value: unknown): string | undefined {
  if (isInfinite(value)) return NOT_A_NUMBER;
  let level = [value].filter(isObject);
  for (let depth = 0; level.length > 0; depth++) {
    if (depth >= MAX_DEPTH) return `is nested more than ${MAX_DEPTH} levels deep`;
    const next: object[] = [];
    for (const item of level) {
      if (Object.hasOwn(item, '__proto__')) return 'cannot have the key "__proto__"';
      if (
        Object.hasOwn(item, 'constructor') &&
        isObject(item.constructor) &&
        Object.hasOwn(item.constructor, 'prototype')
      )
        return 'cannot have the key "constructor" with a "prototype"';
      for (const part of Object.values(item)) {
        if (isObject(part)) next.push(part);
        else if (isInfinite(part)) return NOT_A_NUMBER;
      }
    }
    level = next;
  }
  return undefined;
}

/** JSON.parse converts 1e999 to Infinity, which JSON.stringify would convert to null. */
function isInfinite(value: unknown): boolean {
  return typeof value === 'number' && !Number.isFinite(value);
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}
