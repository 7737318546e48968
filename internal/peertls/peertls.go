// Package peertls makes of a secret that the nodes of a cluster share what protects their
// connections: TLS 1.3, in which each side proves that it has the secret.
//
// # The construction
//
// A secret is stretched (PBKDF2 with HMAC-SHA-256, RFC 8018) into the seed of an Ed25519
// key. Every node has that key, and shows it in a certificate that it has signed itself, as
// a server and as a client. Nothing of the certificate counts but the public key: it must be
// one that the other side has derived, too, from a secret that it accepts. There is no
// authority, no name and no date in it, and nothing to renew.
//
// What that gives rests on TLS 1.3 (RFC 8446) alone. Each side signs the transcript of its
// own handshake, in which both have put fresh Diffie-Hellman shares, as what it is, server
// or client: it has the private key now, nothing recorded can be replayed, and who learns
// the secret later cannot read what was recorded. A connection that is passed on to another
// node, or back to the one that made it, is protected, and goes to the wrong one: the
// handshake of package wire says who is meant. Sessions are not resumed, so that a secret
// that is accepted no more is at once of no use for a new connection.
//
// What it does not give: members are not told apart. Who has the secret is taken for
// whichever node it says that it is. And who connects to a node is shown the public key, to
// which guesses can be compared at leisure: a secret is to be random, and 16 bytes is the
// least. Stretching makes a guess a hundred thousand times as dear, and no more.
//
// The package starts no goroutine, has no lock, and keeps no copy of a secret. The attacks that
// it is to withstand are tests of package wire; here are the key, and who meets whom.
package peertls

import (
	"crypto/ed25519"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// MinSecret is how many bytes a secret has at the least.
const MinSecret = 16

const (
	salt       = "kvraft: connections between peers, 1" // with the version of the construction
	iterations = 100_000
	protocol   = "kvraft/1" // in ALPN, which both sides have to name: the key is for nothing else
)

// ErrSecret is about the other side's proof.
var ErrSecret = errors.New("the other side has another secret")

var errProtocol = errors.New("the other side speaks another protocol than " + protocol)

// FromSecrets is for both ends of a connection: a node proves the first of the secrets, and
// accepts all of them.
func FromSecrets(secrets []string) (*tls.Config, error) {
	var own ed25519.PrivateKey
	accepted := make(map[string]bool)
	for i, secret := range secrets {
		if len(secret) < MinSecret {
			return nil, fmt.Errorf("the secret has %d bytes, want %d at the least, at random", len(secret), MinSecret)
		}
		key, err := derive(secret)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			own = key
		}
		accepted[string(key.Public().(ed25519.PublicKey))] = true
	}
	certificate, err := show(own)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{protocol},
		Certificates:           []tls.Certificate{certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // of names and authorities; of the key it is checked by:
		VerifyConnection: func(state tls.ConnectionState) error {
			shown, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
			if !ok || !accepted[string(shown)] {
				return ErrSecret
			}
			if state.NegotiatedProtocol != protocol {
				return errProtocol
			}
			return nil
		},
	}, nil
}

func derive(secret string) (ed25519.PrivateKey, error) {
	seed, err := pbkdf2.Key(sha256.New, secret, []byte(salt), iterations, ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive a key from the secret: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// show wraps a key in a certificate, which TLS wants one in.
func show(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // none, by RFC 5280
	}
	raw, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, nil
}
