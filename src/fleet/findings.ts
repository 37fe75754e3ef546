/** The answer of commands that run checks: `vreg doctor` and `vreg daemon check`. */
import type { Cell, RowsAnswer } from '../render.ts';

export interface CheckResult {
  check: string;
  result: 'ok' | 'warn' | 'fail' | 'skip';
  detail: string;
  /** The next step for a warning or failure. */
  fix?: string;
}

export function findingsAnswer(rows: readonly CheckResult[]): RowsAnswer<CheckResult> {
  return {
    kind: 'rows',
    rows,
    columns: [
      { title: 'CHECK', cell: ({ check }) => check },
      { title: 'RESULT', cell: resultCell },
      { title: 'DETAIL', cell: ({ detail }) => detail },
      { title: 'FIX', cell: ({ fix }) => fix ?? '-' },
    ],
    name: ({ check }) => check,
    data: ({ check, result, detail, fix }) => ({ check, result, detail, ...(fix === undefined ? {} : { fix }) }),
    list: (finding) => ({
      labels: [resultCell(finding), finding.check],
      text: finding.detail,
      detail: finding.fix === undefined ? undefined : `fix: ${finding.fix}`,
    }),
  };
}

function resultCell({ result }: CheckResult): Cell {
  return { text: result, color: { ok: 'green', warn: 'yellow', fail: 'red', skip: 'gray' }[result] as 'green' };
}
