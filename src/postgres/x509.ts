import { createPrivateKey, webcrypto, X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import type { Extension as X509Extension } from '@peculiar/x509';

/** Certificate and private key (PKCS 8), both PEM text. */
export interface KeyPair {
  readonly certPem: string;
  readonly keyPem: string;
}

export interface CertificateRequest {
  readonly commonName: string;
  /** `ca` is signed by itself. */
  readonly purpose: 'ca' | 'server' | 'client';
  /** Host names and IP addresses, for `server`. */
  readonly names?: readonly string[] | undefined;
  readonly notBefore: Date;
  readonly notAfter: Date;
}

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };

/** Makes a new ECDSA P-256 key and a certificate for it, signed by `authority`. */
export async function makeCertificate(request: CertificateRequest, authority?: KeyPair): Promise<KeyPair> {
  // Loaded when needed: these take several MB, and most starts find their certificates made.
  await import('reflect-metadata');
  const x509 = await import('@peculiar/x509');
  const crypto = webcrypto;
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const isAuthority = request.purpose === 'ca';
  const extensions: X509Extension[] = [
    new x509.BasicConstraintsExtension(isAuthority, isAuthority ? 0 : undefined, true),
    new x509.KeyUsagesExtension(
      isAuthority
        ? x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign
        : x509.KeyUsageFlags.digitalSignature,
      true,
    ),
    await x509.SubjectKeyIdentifierExtension.create(keys.publicKey, false, crypto),
  ];
  if (request.purpose === 'server') {
    extensions.push(new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]));
  }
  if (request.purpose === 'client') {
    extensions.push(new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth]));
  }
  if (request.names && request.names.length > 0) {
    const names = request.names.map((value) => ({ type: isIP(value) ? x509.IP : x509.DNS, value }));
    extensions.push(new x509.SubjectAlternativeNameExtension(names));
  }
  const { notBefore, notAfter } = request;
  const base = { notBefore, notAfter, signingAlgorithm: ALGORITHM, extensions };
  // A typed value: in a plain string the library gives quotes and a leading # a meaning, so that a role's name
  // could pass for another's.
  const subject = new x509.Name([{ CN: [{ utf8String: request.commonName }] }]);
  let certificate;
  if (authority) {
    const issuer = new x509.X509Certificate(authority.certPem);
    extensions.push(await x509.AuthorityKeyIdentifierExtension.create(issuer, false, crypto));
    const signingKey = await importKey(authority.keyPem);
    certificate = await x509.X509CertificateGenerator.create(
      { ...base, subject, issuer: issuer.subjectName, publicKey: keys.publicKey, signingKey },
      crypto,
    );
  } else {
    certificate = await x509.X509CertificateGenerator.createSelfSigned(
      { ...base, name: subject, keys },
      crypto,
    );
  }
  const key = Buffer.from(await crypto.subtle.exportKey('pkcs8', keys.privateKey));
  return {
    certPem: `${certificate.toString('pem')}\n`,
    keyPem: createPrivateKey({ key, format: 'der', type: 'pkcs8' })
      .export({ format: 'pem', type: 'pkcs8' })
      .toString(),
  };
}

function importKey(keyPem: string): Promise<webcrypto.CryptoKey> {
  const der = createPrivateKey(keyPem).export({ format: 'der', type: 'pkcs8' });
  return webcrypto.subtle.importKey('pkcs8', der, ALGORITHM, false, ['sign']);
}

/** Why a certificate cannot be used any longer, or undefined while it can. */
export function staleBecause(
  pair: KeyPair,
  request: Pick<CertificateRequest, 'names'>,
  caPem: string,
  nowMs: number,
): string | undefined {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(pair.certPem);
    if (!certificate.checkPrivateKey(createPrivateKey(pair.keyPem))) return 'it is not of this key';
  } catch {
    return 'it cannot be read';
  }
  const authority = new X509Certificate(caPem);
  if (!certificate.checkIssued(authority) || !certificate.verify(authority.publicKey)) {
    return 'another authority signed it';
  }
  const from = Date.parse(certificate.validFrom);
  const to = Date.parse(certificate.validTo);
  if (to - nowMs < (to - from) / 3) return 'it ends soon';
  const missing = (request.names ?? []).find(
    (name) => (isIP(name) ? certificate.checkIP(name) : certificate.checkHost(name)) === undefined,
  );
  return missing === undefined ? undefined : `it is not for ${missing}`;
}
