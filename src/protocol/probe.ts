/** The text of `GET /livez?verbose` and `GET /readyz?verbose`: one line per check, in the format of Kubernetes and etcd. */

/** The result of one check of a probe. */
export interface ProbeCheck {
  name: string;
  /** A probe fails if one of its checks fails. A warning is only a reason. */
  result: 'ok' | 'warn' | 'fail';
  reason: string;
}

const SIGNS = { ok: '+', warn: '!', fail: '-' } as const;

/** @param probe `livez` or `readyz` */
export function formatChecks(probe: string, checks: readonly ProbeCheck[]): string {
  const lines = checks.map(({ name, result, reason }) => `[${SIGNS[result]}]${name} ${reason}\n`);
  const outcome = checks.some(({ result }) => result === 'fail') ? 'failed' : 'passed';
  return `${lines.join('')}${probe} check ${outcome}\n`;
}

export function parseChecks(text: string): ProbeCheck[] {
  return [...text.matchAll(/^\[([+!-])\](\S+) (.*)$/gm)].map(([, sign, name, reason]) => ({
    name: name!,
    result: sign === SIGNS.ok ? 'ok' : sign === SIGNS.warn ? 'warn' : 'fail',
    reason: reason!,
  }));
}
