import { join } from 'node:path';
import { VarveError } from '../../core/errors.ts';
import type { BufferState } from '../buffer/namespace-buffer.ts';
import type { Log } from '../commit-log/spare-segments.ts';
import type { Catalog, CatalogContent } from './catalog.ts';
import { DATA_FOLDER } from './fileset-store.ts';
import { IMAGE_FOLDER } from './image-folder.ts';
import { INDEX_FOLDER } from './index-store.ts';
import { memoryIndexName } from './memory-index.ts';
import { Namespace, type NamespaceDeps } from './namespace.ts';
import { namespaceOptions, refusedChange, sameNamespace } from './namespace-options.ts';
import { removeTree } from './remove-tree.ts';
import type { NamespaceOptions } from './storage-engine.ts';
import { SNAPSHOT_FOLDER } from './take-snapshot.ts';
import { removeIfThere } from '../fileset/remove-fileset.ts';
import { TOMBSTONE_FOLDER } from './tombstones.ts';

export interface RegistryDeps extends NamespaceDeps {
  readonly catalog: Catalog;
  readonly log: Log;
}

/** The namespaces of an engine: what the catalog says, and what of it is in memory. */
export class NamespaceRegistry {
  readonly #deps: RegistryDeps;
  readonly #folder: string;
  readonly #byName = new Map<string, Namespace>();
  readonly #byId = new Map<number, Namespace>();

  /** @param states what an image had of namespaces, by number */
  constructor(deps: RegistryDeps, folder: string, states: ReadonlyMap<number, BufferState> = new Map()) {
    this.#deps = deps;
    this.#folder = folder;
    for (const { id, options } of deps.catalog.content.namespaces) {
      this.#hold(this.#create(id, options, states.get(id)));
    }
    const known = new Set(deps.catalog.content.namespaces.map(({ id }) => id));
    // Of namespaces that were deleted since: their memory is given back.
    for (const [id, state] of states) if (!known.has(id)) this.#discard(id, state);
  }

  get all(): readonly Namespace[] {
    return [...this.#byName.values()];
  }

  find(name: string): Namespace | undefined {
    return this.#byName.get(name);
  }

  findId(id: number): Namespace | undefined {
    return this.#byId.get(id);
  }

  /** @throws NAMESPACE_UNKNOWN */
  get(name: string): Namespace {
    const found = this.#byName.get(name);
    if (found) return found;
    throw new VarveError('NAMESPACE_UNKNOWN', `there is no namespace ${JSON.stringify(name)}`, {
      hint: 'Create it first; GET /api/v1/namespaces lists those that there are.',
    });
  }

  /**
   * Makes them what is wanted; durable when it resolves. Nobody else works on files meanwhile.
   * @throws NAMESPACE_INVALID, NAMESPACE_CHANGE_REFUSED: then nothing was changed
   */
  async apply(requested: readonly NamespaceOptions[]): Promise<void> {
    const wanted = checkedAll(requested);
    for (const options of wanted) this.#refuseChange(options);
    const names = new Set(wanted.map(({ name }) => name));
    const gone = this.all.filter(({ name }) => !names.has(name));
    const changed = wanted.filter((options) => {
      const current = this.#byName.get(options.name);
      return current && !sameNamespace(current.options, options);
    });
    const added = wanted.filter(({ name }) => !this.#byName.has(name));
    if (gone.length + changed.length + added.length === 0) return;
    // What is left of one that had the same name must not become the new one's.
    if (added.some(({ name }) => this.#content.deleted.some((left) => left.name === name))) {
      await this.finishDeletions();
    }
    const created = added.map((options, index) => this.#create(this.#content.nextId + index, options));
    const content: CatalogContent = {
      ...this.#content,
      nextId: this.#content.nextId + added.length,
      namespaces: [
        ...this.#content.namespaces
          .filter(({ options }) => names.has(options.name))
          .map(({ id, options }) => ({
            id,
            options: wanted.find(({ name }) => name === options.name) ?? options,
          })),
        ...created.map(({ id, options }) => ({ id, options })),
      ],
      deleted: [...this.#content.deleted, ...gone.map(({ id, name }) => ({ id, name }))],
    };
    try {
      await this.#deps.catalog.change(content);
    } catch (error) {
      for (const namespace of created) await namespace.close();
      throw error;
    }
    for (const options of changed) this.get(options.name).configure(options);
    for (const namespace of created) this.#hold(namespace);
    for (const namespace of gone) await this.#let(namespace);
    if (gone.length > 0) await this.#tryDeletions();
  }

  /** Removes the files of namespaces that are deleted; then they are forgotten. */
  async finishDeletions(): Promise<void> {
    const { catalog, fs } = this.#deps;
    const { deleted } = this.#content;
    if (deleted.length === 0) return;
    for (const { id, name } of deleted) {
      for (const folder of [DATA_FOLDER, SNAPSHOT_FOLDER, INDEX_FOLDER]) {
        await removeTree(fs, join(this.#folder, folder, name));
      }
      await removeIfThere(fs, join(this.#folder, TOMBSTONE_FOLDER, `${name}.db`));
      await removeIfThere(fs, join(this.#folder, IMAGE_FOLDER, memoryIndexName(id)));
    }
    await catalog.change({ ...this.#content, deleted: [] });
  }

  async close(): Promise<void> {
    for (const namespace of this.all) await namespace.close();
  }

  get #content(): CatalogContent {
    return this.#deps.catalog.content;
  }

  /** It is deleted, durably, even if its files are still there: the next start tries again. */
  async #tryDeletions(): Promise<void> {
    await this.finishDeletions().catch((error: unknown) => {
      this.#deps.log.error({ error }, 'files of a deleted namespace could not be removed');
    });
  }

  async #let(namespace: Namespace): Promise<void> {
    namespace.deleted = true;
    this.#byName.delete(namespace.name);
    this.#byId.delete(namespace.id);
    await namespace.close();
  }

  #hold(namespace: Namespace): void {
    this.#byName.set(namespace.name, namespace);
    this.#byId.set(namespace.id, namespace);
  }

  #create(id: number, options: NamespaceOptions, state?: BufferState): Namespace {
    const { shardCount } = this.#content;
    return new Namespace(this.#deps, { id, folder: this.#folder, shardCount, state }, options);
  }

  #discard(id: number, state: BufferState): void {
    this.#create(id, namespaceOptions({ name: 'deleted' }), state).buffer.dispose();
  }

  #refuseChange(options: NamespaceOptions): void {
    const current = this.#byName.get(options.name);
    const refusal = current && refusedChange(current.options, options);
    if (!refusal) return;
    throw new VarveError(
      'NAMESPACE_CHANGE_REFUSED',
      `namespace ${JSON.stringify(options.name)}: ${refusal}`,
      {
        hint: 'Create another namespace, or delete this one with its data first.',
      },
    );
  }
}

function checkedAll(requested: readonly NamespaceOptions[]): NamespaceOptions[] {
  const names = new Set<string>();
  return requested.map((request) => {
    const options = namespaceOptions(request);
    if (names.has(options.name)) {
      throw new VarveError('NAMESPACE_INVALID', `namespace ${JSON.stringify(options.name)} is named twice`);
    }
    names.add(options.name);
    return options;
  });
}
