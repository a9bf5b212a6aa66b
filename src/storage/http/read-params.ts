import { VarveError } from '../../core/errors.ts';
import type { LabelMatcher } from '../index/matcher.ts';
import { parseSelector } from '../index/selector.ts';
import { MAX_NS, MIN_NS, parseTime } from '../protocol/time-text.ts';
import type { Exchange } from './exchange.ts';
import type { RequestBodies } from './request-body.ts';

const FORM_TYPE = 'application/x-www-form-urlencoded';
const MAX_SELECTORS = 256;

/** Of the address, and of the form in the body of a POST. @throws MEDIA_TYPE_UNSUPPORTED, BODY_TOO_LARGE */
export async function readParams(
  bodies: RequestBodies,
  { request, query }: Exchange,
): Promise<URLSearchParams> {
  const params = new URLSearchParams(query);
  if (request.method !== 'POST' && request.method !== 'PUT') return params;
  const text = (await bodies.readText(request)).toString();
  if (text === '') return params;
  const type = request.headers['content-type'] ?? FORM_TYPE;
  if (!type.toLowerCase().startsWith(FORM_TYPE)) {
    throw new VarveError(
      'MEDIA_TYPE_UNSUPPORTED',
      `Content-Type ${type.slice(0, 60)} is not that of a form`,
      {
        hint: `Send parameters in the address or as ${FORM_TYPE}.`,
      },
    );
  }
  for (const [name, value] of new URLSearchParams(text)) params.append(name, value);
  return params;
}

/** `start` and `end`, both included; what is left out reaches as far as times do. @throws INVALID_ARGUMENT */
export function readRange(params: URLSearchParams): { readonly startNs: bigint; readonly endNs: bigint } {
  const [start, end] = [params.get('start'), params.get('end')];
  const startNs = start ? parseTime('start', start) : MIN_NS;
  const lastNs = end ? parseTime('end', end) : MAX_NS;
  if (lastNs < startNs) throw new VarveError('INVALID_ARGUMENT', 'end is before start');
  return { startNs, endNs: lastNs < MAX_NS ? lastNs + 1n : MAX_NS };
}

/** Each `match[]`. @throws SELECTOR_INVALID, INVALID_ARGUMENT */
export function readSelectors(
  params: URLSearchParams,
  options: { readonly required: boolean },
): LabelMatcher[][] {
  const texts = [...params.getAll('match[]'), ...params.getAll('match')];
  if (texts.length === 0 && options.required) {
    throw new VarveError('INVALID_ARGUMENT', 'no match[] parameter provided', {
      hint: 'Give at least one selector, such as match[]=up or match[]={job="node"}.',
    });
  }
  if (texts.length > MAX_SELECTORS) {
    throw new VarveError('INVALID_ARGUMENT', `there are more than ${MAX_SELECTORS} match[] parameters`);
  }
  return texts.map((text) => parseSelector(text));
}

/** 0 or nothing: as many as this node gives at all. @throws INVALID_ARGUMENT */
export function readLimit(params: URLSearchParams, most: number): number {
  const text = params.get('limit');
  if (text === null || text === '') return most;
  if (!/^\d{1,9}$/.test(text)) {
    throw new VarveError(
      'INVALID_ARGUMENT',
      `limit is ${JSON.stringify(text.slice(0, 40))}, which is no number of results`,
    );
  }
  return Number(text) === 0 ? most : Math.min(Number(text), most);
}
