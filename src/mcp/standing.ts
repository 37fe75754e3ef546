/**
 * Which VM the tools act as. A clone has the settings and the conversation of the VM from which it was copied, so its mutating
 * tools must not act as that VM.
 */
import type { RegistryClient } from '../client.ts';
import type { Context } from '../command.ts';
import {
  type CloneVerdict,
  cloneVerdict,
  currentConflicts,
  proveSelf,
  readSelf,
  type Self,
  storeRebirth,
} from '../fleet/self.ts';
import { VregError, withMessage } from '../protocol/errors.ts';

export interface Standpoint extends Self {
  verdict: CloneVerdict;
}

/** The id under which a clone has registered itself, the id that it had, and the token that the registry has issued. */
interface Adoption {
  id: string;
  was: string;
  bearer: string | undefined;
}

/** The VM that a call of `registry_register` registers. */
export interface RegistrationTarget {
  id: string;
  parentId?: string | undefined;
  /**
   * Called after a clone has registered itself.
   * @param bearer the token that the registry has issued
   * @returns why the new id could not be stored, so that it is lost with the session
   */
  adopt?: (bearer: string | undefined) => Promise<VregError | undefined>;
}

const NOT_PROVEN = 'so this VM cannot prove that it is no clone, and nothing was changed';

export class Standing {
  /** The last answer of `registry_status` about the fleet, for the time while the registry is away; `at` in milliseconds since the epoch. */
  lastStatus: { at: number; fleet: Readonly<Record<string, unknown>> } | undefined;
  /** How a clone has registered itself through these tools. It is lost with the session if no folder accepts its state. */
  #adopted: Adoption | undefined;
  /** The last proof. Two proofs at a time would spend the same token. */
  #lastProof: Promise<unknown> = Promise.resolve();

  /** This VM, as the agent's state and the registry know it. Without an answer about conflicts, it is that of the state. */
  async read(context: Context, client: RegistryClient): Promise<Standpoint> {
    const self = await readSelf(context.config);
    const conflicts = await currentConflicts(client).catch((error: unknown) => {
      if (error instanceof VregError) return [];
      throw error;
    });
    return this.#withAdoption(self, cloneVerdict(self, conflicts));
  }

  /** As {@link read}, without asking the registry. */
  async remembered(context: Context): Promise<Standpoint> {
    const self = await readSelf(context.config);
    return this.#withAdoption(self, cloneVerdict(self, []));
  }

  /** The id under which a clone has registered itself and that its state does not contain, because no folder accepted it. */
  adoptedBy(self: Self): string | undefined {
    return this.#adopted?.was === self.id ? this.#adopted.id : undefined;
  }

  /** The token that the registry has issued for the id under which this VM acts. */
  tokenOf(self: Self): string | undefined {
    return this.adoptedBy(self) === undefined ? self.state?.content.bearer : this.#adopted!.bearer;
  }

  /** True if the parameter `id` of a tool names this VM, or is omitted. Invalid settings name no VM. */
  async isOwn(context: Context, id: unknown): Promise<boolean> {
    if (id === undefined || id === null) return true;
    const own = await this.remembered(context).catch(onlyVregError);
    return 'id' in own && own.id === id;
  }

  /**
   * The id of the VM that a mutating tool changes.
   * @param id the parameter of the tool; undefined for this VM
   * @throws VregError IDENTITY_CONFLICT if this VM is a clone, and the tool would act as the VM from which it was copied; the client's
   *   errors if it is not known whether this VM is a clone
   */
  async targetOf(context: Context, client: RegistryClient, id: string | undefined): Promise<string> {
    return targetOf(await this.#check(context, client), id);
  }

  /**
   * The id that `registry_register` registers, and the parent of this VM if that is the VM to register. Lets a clone register other
   * VMs, and itself under an id of its own.
   * @param isSelf the VM to register is this one
   * @throws as {@link targetOf} for an id that another VM holds; VregError INVALID
   */
  async registrationTarget(
    context: Context,
    client: RegistryClient,
    id: string | undefined,
    isSelf: boolean,
  ): Promise<RegistrationTarget> {
    const standpoint = await this.#check(context, client, 'FORBIDDEN');
    const { id: own, formerIds, parentId, verdict } = standpoint;
    const isClone = verdict === 'clone' || verdict === 'contested';
    if (!isClone || id === undefined || id === own || formerIds.includes(id)) {
      const target = targetOf(standpoint, id);
      if (isSelf && target !== own)
        throw new VregError('INVALID', `the id of this VM is "${own}"`, {
          field: 'self',
          hint: 'omit "self" to register another VM',
        });
      return { id: target, ...(id === undefined || isSelf ? { parentId } : {}) };
    }
    if (!isSelf) return { id };
    return { id, parentId: own, adopt: (bearer) => this.#adopt(context, client, { id, was: own, bearer }) };
  }

  /** Makes a clone act as the VM that it has registered, also in later sessions and in its agent. */
  async #adopt(context: Context, client: RegistryClient, adopted: Adoption): Promise<VregError | undefined> {
    this.#adopted = adopted;
    const fault = await this.#storeAdoption(context, await readSelf(context.config));
    // The first proof lets the registry match the new id to the conflict. If it fails, the next call repeats it.
    if (!fault) await this.#check(context, client).catch(onlyVregError);
    return fault;
  }

  /** @returns why the id that this VM has adopted could not be stored */
  async #storeAdoption({ config }: Context, self: Self): Promise<VregError | undefined> {
    const { id, bearer } = this.#adopted!;
    return storeRebirth(config, self, id, bearer).then(() => undefined, onlyVregError);
  }

  /**
   * Finds out whether this VM is a clone. Without an agent that proves the identity of this VM regularly, it must be proved now: a
   * restored copy has the same state as the VM itself.
   * @param tolerated the code of an error after which the call proceeds
   */
  async #check(context: Context, client: RegistryClient, tolerated?: VregError['code']): Promise<Standpoint> {
    const self = await readSelf(context.config);
    // Its folder may be usable now, and an agent that used it may have ended.
    if (this.adoptedBy(self) !== undefined) await this.#storeAdoption(context, self);
    // The state alone decides.
    if (self.state?.content.isRefused || this.adoptedBy(self) !== undefined) return this.#withAdoption(self, 'clone');
    const proof = this.#lastProof.catch(() => {}).then(() => proveSelf(client, self));
    this.#lastProof = proof;
    try {
      const outcome = await proof;
      if (outcome === 'refused') return { ...self, verdict: 'clone' };
      if (outcome === 'undecided') return { ...self, verdict: 'contested' };
      const conflicts = outcome === 'accepted' ? [] : await currentConflicts(client);
      return { ...self, verdict: cloneVerdict(self, conflicts) };
    } catch (error) {
      if (!(error instanceof VregError)) throw error;
      if (error.code === 'STORE_UNUSABLE') throw withMessage(error, `${error.message}, ${NOT_PROVEN}`);
      if (error.code !== tolerated) throw error;
      return { ...self, verdict: cloneVerdict(self, []) };
    }
  }

  /** An id that a clone has adopted applies until its agent gives it another one. */
  #withAdoption(self: Self, verdict: CloneVerdict): Standpoint {
    const id = this.adoptedBy(self);
    if (id === undefined) return { ...self, verdict };
    return { ...self, id, formerIds: [...self.formerIds, self.id], parentId: self.id, verdict: 'reborn' };
  }
}

function onlyVregError(error: unknown): VregError {
  if (error instanceof VregError) return error;
  throw error;
}

function targetOf({ id: own, formerIds, verdict, state, fault }: Standpoint, id: string | undefined): string {
  if (verdict === 'clone')
    throw refused(own, `this VM is a clone: another VM holds the id "${own}", so nothing was changed`);
  if (verdict === 'contested') {
    const reason = state
      ? 'the registry has not decided yet which one holds it'
      : `no state of an agent shows that this one holds it${fault === undefined ? '' : ` (${fault})`}`;
    throw refused(own, `two VMs claim the id "${own}", and ${reason}, so nothing was changed`);
  }
  if (id !== undefined && id !== own && formerIds.includes(id))
    throw new VregError(
      'IDENTITY_CONFLICT',
      `this VM is a clone of "${id}" and continues as "${own}", so "${id}" was not changed`,
      { field: 'id', hint: `repeat the call with {"id":${JSON.stringify(own)}}` },
    );
  return id ?? own;
}

function refused(id: string, message: string): VregError {
  return new VregError('IDENTITY_CONFLICT', message, {
    field: 'id',
    hint: rebirthCall(id),
  });
}

/** The call that registers this VM, which is a clone, under an id of its own. @param id that of the VM from which it was copied */
export function rebirthCall(id: string): string {
  return `registry_register {"id":"<a new id>","parentVmId":${JSON.stringify(id)},"self":true}`;
}
