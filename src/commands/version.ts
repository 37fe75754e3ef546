import { defineCommand } from '../command.ts';

export const version = defineCommand({
  name: 'version',
  summary: 'print the version of this program',
  description: 'Prints the version of this program. vreg status prints the version of the running registry.',
  examples: [
    { about: 'as text', command: 'vreg version' },
    { about: 'as JSON', command: 'vreg version -o json' },
    { about: 'short form', command: 'vreg --version' },
  ],
  lenient: true,
  async run(context) {
    await context.print({
      kind: 'value',
      text: `vreg ${context.version}`,
      data: { version: context.version, node: process.versions.node },
    });
  },
});
