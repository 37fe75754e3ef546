/**
 * `--on-clone`: how an agent reacts when the registry knows another incarnation of its VM, because the VM was cloned or
 * restored from an older snapshot.
 */
import { type ExecFileException, execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { RegistryClient } from '../../src/client.ts';
import type { OnClone } from '../../src/protocol/api.ts';
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import { mayDo } from '../../src/protocol/token.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { redact } from '../process/log.ts';
import { kernelRandomHex } from '../process/random.ts';
import type { CloneHandler } from './agent.ts';
import type { Identity } from './identity.ts';
import type { AgentLog } from './registry-session.ts';

/** Time limit in milliseconds for an `--id-command` or a `--rebirth-hook`. */
const COMMAND_TIMEOUT = 60_000;
/** Number of bytes in a random id: with 64 bits, collisions within a fleet are negligible. */
const ID_BYTES = 8;
/** Maximum number of characters that an error quotes from the last stderr line of a failed command. */
const MAX_QUOTED = 200;

export interface CloneOptions {
  policy: OnClone;
  /** Shell command that prints the new id. */
  idCommand?: string | undefined;
  /** Generates the new id if there is no `idCommand`; by default from the kernel's random numbers. */
  makeId?: () => string;
  /** Shell commands to run in order when the new id is known, before the VM is registered under it. */
  hooks: readonly string[];
  identity: Identity;
  vm: Registration;
  /** @returns the registration of this VM under another id */
  vmOf(id: string): Registration;
  /** Called when the VM has received its new id. */
  onRebirth(identity: Identity): void;
  log: AgentLog;
}

/** Creates the conflict handler. It takes over an identity at most once; the next conflict ends the agent. */
export function createCloneHandler(options: CloneOptions): CloneHandler {
  let { identity, vm } = options;
  let replaced = false;
  return async (conflict) => {
    const { policy, log } = options;
    if (policy === 'reject' || (policy === 'replace' && replaced)) throw conflictError(conflict, vm.id);
    if (policy === 'replace') {
      replaced = true;
      log.warn({ id: vm.id }, `${conflict.message}; taking over its identity (--on-clone replace)`);
      identity.takeOver();
      return {};
    }
    const id = await newId(options, vm.id);
    log.warn({ id: vm.id, newId: id }, `${conflict.message}; this VM continues as ${id}, a child of ${vm.id}`);
    const env = { ...process.env, VREG_OLD_ID: vm.id, VREG_ID: id };
    // Throws for an invalid id, which must not be stored, because the next start would use it again.
    vm = { ...options.vmOf(id), parentId: vm.id };
    identity = identity.rebirth(id);
    for (const hook of options.hooks) {
      await runShell(hook, env).catch(({ message }: Error) =>
        log.warn({ hook }, `a --rebirth-hook failed: it ${message}`),
      );
    }
    options.onRebirth(identity);
    return { vm, identity };
  };
}

/** Errors of `whoami` that leave the scope of the token unknown: another server, or a token that is currently not accepted. */
const UNKNOWN_SCOPE: readonly ErrorCode[] = ['UNSUPPORTED', 'UNAUTHORIZED', 'NOT_FOUND', 'METHOD_NOT_ALLOWED'];

/**
 * Checks at the start of the agent, instead of when a conflict occurs, that its token is sufficient for `--on-clone replace`.
 * An enrol token is sufficient, because the VM receives its own token.
 * @throws VregError USAGE, or the client's errors
 */
export async function assertMayReplace(
  client: Pick<RegistryClient, 'whoami' | 'useToken'>,
  { id, bearer }: Pick<Identity, 'id' | 'bearer'>,
): Promise<void> {
  client.useToken(bearer);
  const self = await client.whoami().catch((error: unknown) => {
    if (error instanceof VregError && UNKNOWN_SCOPE.includes(error.code)) return undefined;
    throw error;
  });
  if (!self || self.scope === 'enrol' || (mayDo(self.scope, 'write') && (self.vm ?? id) === id)) return;
  const limit = self.vm === undefined ? '' : ` for VM "${self.vm}"`;
  throw new VregError(
    'USAGE',
    `--on-clone replace requires a token with the scope write for VM "${id}"; "${self.name}" has the scope ${self.scope}${limit}`,
    { field: 'on-clone', hint: `use another token: vreg token create NAME --scope write --vm ${id}` },
  );
}

function conflictError(conflict: VregError, id: string): VregError {
  return new VregError('IDENTITY_CONFLICT', conflict.message, {
    field: 'id',
    hint: `show both: vreg conflicts; to keep this VM, pass --on-clone rebirth (new id) or --on-clone replace (takes over ${id})`,
    cause: conflict,
  });
}

const randomId = () => `vm-${kernelRandomHex(ID_BYTES)}`;

/** @throws VregError IDENTITY_CONFLICT if the `idCommand` prints no usable id */
async function newId({ idCommand, makeId = randomId }: CloneOptions, old: string): Promise<string> {
  if (idCommand === undefined) return makeId();
  const failed = (why: string) =>
    new VregError('IDENTITY_CONFLICT', `VM "${old}" is a clone, and its --id-command ${why}`, {
      field: 'id-command',
      hint: 'the command must print a new id on one line',
    });
  const output = await runShell(idCommand, { ...process.env, VREG_OLD_ID: old }).catch(({ message }: Error) => {
    throw failed(message);
  });
  const id = output.trim();
  if (id === '') throw failed('printed nothing');
  if (id.includes('\n')) throw failed('printed more than one line');
  if (id === old) throw failed('printed the old id');
  return id;
}

/**
 * Runs a shell command.
 * @returns its stdout
 * @throws Error with the exit status and the last line on stderr. Other lines may contain secrets, for example those from `set
 * -x`
 */
async function runShell(command: string, env: NodeJS.ProcessEnv): Promise<string> {
  try {
    return (await promisify(execFile)('/bin/sh', ['-c', command], { env, timeout: COMMAND_TIMEOUT })).stdout;
  } catch (error) {
    throw commandFailed(error as ExecFileException & { stderr: string });
  }
}

function commandFailed({ killed, signal, code, stderr }: ExecFileException & { stderr: string }): Error {
  const status = killed && signal ? `timed out after ${COMMAND_TIMEOUT / 1000} s` : `exited with ${signal ?? code}`;
  const [last = ''] = redact(stderr).trimEnd().split('\n').slice(-1);
  return new Error(last === '' ? status : `${status}: ${last.slice(0, MAX_QUOTED)}`);
}
