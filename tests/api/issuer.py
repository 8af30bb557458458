"""An OpenID Connect issuer for tests: its documents over HTTP, tokens of any kind, and every fault on request."""

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import threading
import time

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

AUDIENCE = "agenttier"


def b64(data):
    if isinstance(data, str):
        data = data.encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value, size=None):
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class Key:
    """A signing key; `alg` is what its public half says (None: nothing)."""

    def __init__(self, kind, kid, alg=None, bits=2048, **extra):
        self.kind, self.kid, self.alg, self.extra = kind, kid, alg, extra
        if kind == "RSA":
            self.private = rsa.generate_private_key(65537, bits)
        elif kind == "Ed25519":
            self.private = ed25519.Ed25519PrivateKey.generate()
        else:
            self.private = ec.generate_private_key({"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}[kind])

    def jwk(self):
        public = self.private.public_key()
        if self.kind == "RSA":
            numbers = public.public_numbers()
            out = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        elif self.kind == "Ed25519":
            raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            out = {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}
        else:
            numbers, size = public.public_numbers(), (public.curve.key_size + 7) // 8
            out = {"kty": "EC", "crv": self.kind, "x": number(numbers.x, size), "y": number(numbers.y, size)}
        out["kid"] = self.kid
        if self.alg:
            out["alg"] = self.alg
        return {**out, **self.extra}

    def pem(self):
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def sign(self, alg, data):
        if alg == "RS256":
            return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        if alg == "RS512":
            return self.private.sign(data, padding.PKCS1v15(), hashes.SHA512())
        if alg == "PS256":
            return self.private.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        if alg == "EdDSA":
            return self.private.sign(data)
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
        size = (self.private.curve.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")


DEFAULT_ALG = {"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "Ed25519": "EdDSA"}


def encode(header, claims, signer):
    """A token of these parts (a str is taken as it is); signer(bytes) makes the signature."""
    parts = [b64(part if isinstance(part, str) else json.dumps(part)) for part in (header, claims)]
    data = ".".join(parts)
    return data + "." + b64(signer(data.encode()))


class Issuer:
    """`listening`: else it has its port, and refuses connections, until serve() is called."""

    def __init__(self, keys=None, slash=False, listening=True):
        self.keys = keys if keys is not None else [Key("RSA", "rsa-1")]
        self.mode = {}  # path -> function(handler) that answers instead
        self.requests = []
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.requests.append(self.path)
                if self.path in issuer.mode:
                    issuer.mode[self.path](self)
                elif self.path == "/.well-known/openid-configuration":
                    self.send({"issuer": issuer.url, "jwks_uri": issuer.base + "/keys"})
                elif self.path == "/keys":
                    self.send({"keys": [key.jwk() for key in issuer.keys]})
                else:
                    self.send({}, 404)

            def send(self, body, status=200, content_type="application/json", **headers):
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.server.daemon_threads = True
        self.server.server_bind()
        self.port = self.server.server_port
        self.base = f"http://127.0.0.1:{self.port}"
        self.url = self.base + ("/" if slash else "")
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        if listening:
            self.serve()

    def serve(self):
        self.server.server_activate()
        self.thread.start()

    def fetches(self, path="/keys"):
        return self.requests.count(path)

    def close(self):
        if self.thread.is_alive():
            self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def claims(self, sub="ana", **changes):
        now = int(time.time())
        out = {"iss": self.url, "aud": AUDIENCE, "sub": sub, "email": f"{sub}@example.org", "name": sub.capitalize(),
               "iat": now, "exp": now + 3600, **changes}
        return {name: value for name, value in out.items() if value is not None}

    def token(self, sub="ana", key=None, header=None, alg=None, **changes):
        """A good token, but for the changes; a claim or header member of None is left out."""
        key = key or self.keys[0]
        alg = alg or key.alg or DEFAULT_ALG[key.kind]
        head = {"alg": alg, "kid": key.kid, "typ": "JWT", **(header or {})}
        head = {name: value for name, value in head.items() if value is not None}
        return encode(head, self.claims(sub, **changes), lambda data: key.sign(alg, data))


def hmac_token(claims, secret, header):
    return encode(header, claims, lambda data: hmac.new(secret, data, hashlib.sha256).digest())
