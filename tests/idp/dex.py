"""Dex, an identity provider that others use in earnest, built from its module by ./dev test idp."""

import datetime
import ipaddress
import os
import re
import ssl
import subprocess

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import harness

DEX = os.environ.get("AGENTTIER_DEX", "")
WEB = os.environ.get("AGENTTIER_DEX_WEB", "")
# The bcrypt hash of "password".
HASH = "$2a$10$2b2cU8CPhOTaGrs1HRQuAueS7JTT5ZHsHSzYiFPm1leZck7Mc8T4W"
CALLBACK = "http://127.0.0.1:1/callback"


def certificate(folder):
    """A certificate authority, and a certificate of it for 127.0.0.1."""
    now = datetime.datetime.now(datetime.timezone.utc)

    def write(name, key, cert):
        (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
                                                               serialization.NoEncryption()))
        (folder / f"{name}.crt").write_bytes(cert.public_bytes(serialization.Encoding.PEM))

    def named(common):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    def start(subject, issuer, key):
        return (x509.CertificateBuilder().subject_name(named(subject)).issuer_name(named(issuer)).public_key(key.public_key())
                .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
                .not_valid_after(now + datetime.timedelta(days=2)))
    ca, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    write("ca", ca, start("test ca", "test ca", ca).add_extension(x509.BasicConstraints(True, None), True).sign(ca, hashes.SHA256()))
    write("server", server, start("dex", "test ca", server)
          .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False).sign(ca, hashes.SHA256()))


class Dex:
    def __init__(self, folder, signing_keys="6h"):
        self.folder = folder
        self.port = harness.free_port()
        self.issuer = f"https://127.0.0.1:{self.port}/dex"
        self.ca = str(folder / "ca.crt")
        certificate(folder)
        (folder / "dex.yaml").write_text(f"""
issuer: {self.issuer}
storage: {{type: memory}}
web: {{https: "127.0.0.1:{self.port}", tlsCert: {folder}/server.crt, tlsKey: {folder}/server.key}}
frontend: {{dir: {WEB}}}
oauth2: {{skipApprovalScreen: true}}
expiry: {{signingKeys: "{signing_keys}", idTokens: "10m"}}
staticClients:
- {{id: agenttier, name: AgentTier, secret: hush, redirectURIs: ["{CALLBACK}"]}}
- {{id: other, name: Other, secret: hush, redirectURIs: ["{CALLBACK}"]}}
enablePasswordDB: true
staticPasswords:
- {{email: ana@example.org, hash: "{HASH}", username: ana, userID: "a7c1"}}
- {{email: bo@example.org, hash: "{HASH}", username: bo, userID: "b8d2"}}
""")

    def __enter__(self):
        self.log = open(self.folder / "dex.log", "ab")
        self.process = subprocess.Popen([DEX, "serve", str(self.folder / "dex.yaml")], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        def up():
            assert self.process.poll() is None, (self.folder / "dex.log").read_text()
            try:
                return self.client().get("/dex/keys").status_code == 200
            except httpx.HTTPError:
                return False
        harness.wait_for(up, 90, 0.1, "Dex")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()

    def client(self):
        return httpx.Client(base_url=f"https://127.0.0.1:{self.port}", verify=ssl.create_default_context(cafile=self.ca), follow_redirects=False, timeout=60, trust_env=False)

    def login(self, email, client_id="agenttier", password="password"):
        """The id token that a browser's login ends with: the authorisation code flow, with the form filled in."""
        with self.client() as browser:
            answer = browser.get("/dex/auth", params={"client_id": client_id, "redirect_uri": CALLBACK, "response_type": "code",
                                                      "scope": "openid email profile", "state": "s"})
            for _ in range(5):
                if answer.status_code == 200:
                    break
                answer = browser.get(answer.headers["Location"])
            form = re.search(r'action="([^"]+)"', answer.text)
            place = form[1].replace("&amp;", "&") if form and form[1] else str(answer.url)
            answer = browser.post(place, data={"login": email, "password": password})
            while answer.status_code in (302, 303) and not answer.headers["Location"].startswith(CALLBACK):
                answer = browser.get(answer.headers["Location"])
            assert answer.status_code in (302, 303), answer.text
            code = httpx.URL(answer.headers["Location"]).params["code"]
            answer = browser.post("/dex/token", data={"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK},
                                  auth=(client_id, "hush"))
            assert answer.status_code == 200, answer.text
            return answer.json()["id_token"]
