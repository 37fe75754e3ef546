import { defineCommand } from '../command.ts';

export const version = defineCommand({
  name: 'version',
  summary: 'print the version of this program',
  description: 'Prints the version of this program. The version of a running registry is in vreg status.',
  examples: [
    { about: 'for people', command: 'vreg version' },
    { about: 'for programs', command: 'vreg version -o json' },
    { about: 'just as well', command: 'vreg --version' },
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
