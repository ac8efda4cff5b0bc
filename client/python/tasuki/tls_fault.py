"""Why no TLS comes about, where gRPC says only that a handshake failed. As client/tls_fault.cc has it."""

import socket
import ssl

from tasuki.options import Place

_OF_CERTIFICATE = {  # by X509_V_ERR_…
    9: "the server's certificate is not valid yet",
    10: "the server's certificate has expired",
    62: "the server's certificate is for another name than {name}",
    64: "the server's certificate is for another name than {name}",
}


def tls_fault(place: Place) -> str:
    """Connects to the server and answers what stands in the way of TLS, as half a sentence for people ("the server's
    certificate has expired"). "" if nothing does, or nobody answers. Takes seconds at most."""
    host, _, port = place.target.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    tls = place.tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if tls is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif (roots := tls.roots()) is not None:
        context.load_verify_locations(cadata=roots.decode())
    else:
        context.load_default_certs()
    name = (tls.server_name if tls else None) or host
    certificate, key = (tls.client_certificate, tls.client_key) if tls else (None, None)
    try:
        if isinstance(certificate, bytes) or isinstance(key, bytes):
            return ""  # ssl wants files
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        with socket.create_connection((host, int(port)), timeout=2) as connection:
            with context.wrap_socket(connection, server_hostname=name, suppress_ragged_eofs=False) as agreed:
                if tls is None:
                    return "the server wants TLS; give tls=, or TASUKI_TLS_CA in the environment"
                # A server looks at the client's certificate after this side is done (TLS 1.3), and then hangs up, which
                # versions of OpenSSL tell in two ways; otherwise it greets.
                try:
                    greeted = agreed.recv(1) != b""
                except ssl.SSLError:
                    greeted = False
                if greeted:
                    return ""
                taken = "wants a certificate" if certificate is None else "does not take the certificate"
                return f"the server {taken} of this client"
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _OF_CERTIFICATE:
            return _OF_CERTIFICATE[error.verify_code].format(name=name)
        return f"the server's certificate is not signed by the CA that was given ({error.verify_message})"
    except ssl.SSLError as error:
        if tls is None:
            return ""
        if error.reason == "WRONG_VERSION_NUMBER":
            return "the server does not speak TLS"
        return f"TLS cannot be agreed on ({error.reason})"
    except (OSError, ValueError):  # nobody there; a socket of this machine
        return ""
