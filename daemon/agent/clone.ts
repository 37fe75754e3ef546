/** What an agent does when the registry knows another incarnation of its VM: this one is a clone, or was rewound. */
import { type ExecFileException, execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { OnClone } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { redact } from '../process/log.ts';
import { kernelRandomHex } from '../process/random.ts';
import type { CloneHandler } from './agent.ts';
import type { Identity } from './identity.ts';
import type { AgentLog } from './registry-session.ts';

/** Milliseconds for a command that names the new VM, or for a hook. */
const COMMAND_TIMEOUT = 60_000;
/** Bytes of an id that nobody chose. */
const ID_BYTES = 8;
/** Characters of what a command said last. */
const MAX_STDERR = 200;

export interface CloneOptions {
  policy: OnClone;
  /** Prints the new id. */
  idCommand?: string | undefined;
  /** Makes one where no command does; from the kernel when nothing is said. */
  makeId?: () => string;
  /** Run one after the other, after the new id is known and before the VM is registered under it. */
  hooks: readonly string[];
  identity: Identity;
  vm: Registration;
  /** The registration of this VM under another id. */
  vmOf(id: string): Registration;
  /** Called when the VM has its new id. */
  onRebirth(identity: Identity): void;
  log: AgentLog;
}

/** Makes the answer to a conflict. Each one is given once: who is refused after it ends with the error. */
export function createCloneHandler(options: CloneOptions): CloneHandler {
  let { identity, vm } = options;
  let replaced = false;
  return async (conflict) => {
    const { policy, log } = options;
    if (policy === 'reject' || (policy === 'replace' && replaced)) throw conflictError(conflict, vm.id);
    if (policy === 'replace') {
      replaced = true;
      log.warn({ id: vm.id }, `${conflict.message}; taking the identity over, as --on-clone replace says`);
      identity.takeOver();
      return {};
    }
    const id = await newId(options, vm.id);
    log.warn({ id: vm.id, newId: id }, `${conflict.message}; this VM is ${id} from now on, a child of ${vm.id}`);
    const env = { ...process.env, VREG_OLD_ID: vm.id, VREG_ID: id };
    // Before it is remembered: an id that no VM can have must not be found again by the next start.
    vm = { ...options.vmOf(id), parentId: vm.id };
    identity = identity.rebirth(id);
    for (const hook of options.hooks) {
      await runShell(hook, env).catch((error: Error) =>
        log.warn({ hook }, `a --rebirth-hook failed: ${error.message}`),
      );
    }
    options.onRebirth(identity);
    return { vm, identity };
  };
}

function conflictError(conflict: VregError, id: string): VregError {
  return new VregError('IDENTITY_CONFLICT', conflict.message, {
    field: 'id',
    hint: `see both: vreg conflicts. If this one is to live: --on-clone rebirth gives it an id of its own, --on-clone replace takes ${id} over`,
    cause: conflict,
  });
}

const randomId = () => `vm-${kernelRandomHex(ID_BYTES)}`;

async function newId({ idCommand, makeId = randomId }: CloneOptions, old: string): Promise<string> {
  if (idCommand === undefined) return makeId();
  const failed = (why: string) =>
    new VregError('IDENTITY_CONFLICT', `VM "${old}" is a clone, and --id-command gave it no new id: ${why}`, {
      field: 'id-command',
      hint: 'it must print another id, on one line',
    });
  const output = await runShell(idCommand, { ...process.env, VREG_OLD_ID: old }).catch((error: Error) => {
    throw failed(error.message);
  });
  const id = output.trim();
  if (id === '' || id.includes('\n')) throw failed(`it printed ${id === '' ? 'nothing' : 'more than one line'}`);
  if (id === old) throw failed('it printed the old one');
  return id;
}

/** Fails with how it ended and its last word. All that it said may hold secrets, as a script's `set -x` says them. */
async function runShell(command: string, env: NodeJS.ProcessEnv): Promise<string> {
  const run = promisify(execFile)('/bin/sh', ['-c', command], { env, timeout: COMMAND_TIMEOUT });
  return (await run.catch((error: ExecFileException & { stderr: string }) => Promise.reject(commandFailed(error))))
    .stdout;
}

function commandFailed({ killed, signal, code, stderr }: ExecFileException & { stderr: string }): Error {
  const how = killed && signal ? `it was ended after ${COMMAND_TIMEOUT / 1000} s` : `it ended with ${signal ?? code}`;
  const [last = ''] = redact(stderr).trimEnd().split('\n').slice(-1);
  return new Error(last === '' ? how : `${how}: ${last.slice(0, MAX_STDERR)}`);
}
