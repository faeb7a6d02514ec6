// Why a connection fails because of TLS: in words, with the setting that fixes it.
//
// `fetch` has one code for many causes (EPROTO, ECONNRESET). So the port is tried once more, with TLS and with our certificates, but
// without credentials: this shows whether the port speaks TLS, which certificate it has, and whether it requires one of ours.

import { isIP } from "node:net";
import { type PeerCertificate, connect } from "node:tls";
import type { Pem } from "./pem.ts";

const TRIAL_MS = 3000;
/** A server of TLS 1.3 refuses our certificate after the handshake: how long that is waited for. */
const REFUSAL_MS = 1000;

/** What a trial showed: the server's certificate, if there was a handshake; the code of the error that ended it. */
interface Trial {
  certificate: PeerCertificate | null;
  code: string;
}

interface Tried {
  url: URL;
  certificates: Pem | null;
}

/** Explains a failed request; null when TLS isn't the cause. */
export async function tlsFailure(error: unknown, { url, certificates }: Tried): Promise<string | null> {
  const code = String((error as { code?: unknown } | null)?.code);
  if (!/CERT|^E(PROTO|CONNRESET)$|SSL|TLS|ISSUER|LEAF/.test(code)) return null;
  const trial = await tryTls({ url, certificates }, /^E(PROTO|CONNRESET)$/.test(code) ? REFUSAL_MS : 0);
  if (url.protocol === "http:") {
    return trial.certificate && `the port speaks TLS: set the URL to https://${url.host}`;
  }
  return certificateFailure(code, { url, certificates }, trial) ?? handshakeFailure(trial.code, certificates);
}

/** The server's certificate is not accepted. */
function certificateFailure(code: string, { url, certificates }: Tried, { certificate }: Trial): string | null {
  const { subjectaltname, valid_from, valid_to, issuer, subject } = certificate ?? {};
  const [, when] = /^CERT_(HAS_EXPIRED|NOT_YET_VALID)$/.exec(code) ?? [];
  if (when === "HAS_EXPIRED")
    return `its certificate expired on ${valid_to}: renew it on the server, or correct this host's clock`;
  if (when) return `its certificate is not valid before ${valid_from}: correct this host's clock, or the certificate`;
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") {
    const names = subjectaltname ?? `CN:${String(subject?.CN)}`;
    return `its certificate is for ${names}, not for "${url.hostname}": set the URL to a name that it has`;
  }
  if (code === "DEPTH_ZERO_SELF_SIGNED_CERT") return 'its certificate is self-signed: set "ca_file" to a copy of it';
  if (!/ISSUER|LEAF|SELF_SIGNED/.test(code)) return null;
  const trust = certificates?.ca === undefined ? "which this host doesn't trust" : 'which "ca_file" doesn\'t hold';
  return `its certificate is issued by "${String(issuer?.CN ?? issuer?.O)}", ${trust}: set "ca_file" to that authority's certificate`;
}

/** The server ends the handshake, or there is none. */
function handshakeFailure(code: string, certificates: Tried["certificates"]): string | null {
  if (/WRONG_VERSION_NUMBER|HTTP_REQUEST|INVALID_RECORD/.test(code))
    return "the port doesn't speak TLS: set the URL to http://, or to the port that does";
  if (certificates?.cert !== undefined) {
    if (/ALERT/.test(code)) return `the server rejects "client_cert_file" (${code.replace(/^.*ALERT_/, "")})`;
    return code === "closed" ? 'the server closes the connection: it may reject "client_cert_file"' : null;
  }
  if (!/ALERT_(CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE|BAD_CERTIFICATE)/.test(code)) return null;
  return 'the server requires a client certificate: set "client_cert_file" and "client_key_file"';
}

/** What a proxy's page says of TLS: nginx, Caddy and Go answer 400 there. Empty for other pages. */
export function tlsHint(page: string): string {
  if (/HTTPS (port|server)/.test(page)) return ": the port speaks TLS: set the URL to https://";
  if (!/SSL certificate/.test(page)) return "";
  return ': the server requires a client certificate: set "client_cert_file" and "client_key_file"';
}

/** A handshake; no request. */
function tryTls({ url, certificates }: Tried, wait: number): Promise<Trial> {
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const port = Number(url.port || (url.protocol === "http:" ? 80 : 443));
  const name = isIP(host) ? {} : { servername: host };
  const { promise, resolve } = Promise.withResolvers<Trial>();
  let certificate: PeerCertificate | null = null;
  let timer = setTimeout(() => end("ETIMEDOUT"), TRIAL_MS);
  const end = (code: string) => {
    clearTimeout(timer);
    socket.destroy();
    resolve({ certificate, code });
  };
  const socket = connect({ ...certificates, ...name, host, port, rejectUnauthorized: false }, () => {
    certificate = socket.getPeerCertificate();
    clearTimeout(timer);
    timer = setTimeout(() => end("stays open"), wait);
  });
  socket.on("error", (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
  socket.on("close", () => end("closed"));
  // So that the end is seen.
  socket.resume();
  return promise;
}
