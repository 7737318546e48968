package peertls

import (
	"crypto/ed25519"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"testing"
)

const someSecret = "a secret of sixteen bytes or more"

// Nodes of different versions have to derive the same: what changes it takes another salt,
// and a way to move over.
func TestAKeyIsDerivedAsItEverWas(t *testing.T) {
	key, err := derive(someSecret)
	if err != nil {
		t.Fatal(err)
	}
	const want = "ac063fd7854931f205bfd8ec2924b216f0cad412a1a2d15ffd3f6f9695bceed6"
	if got := hex.EncodeToString(key.Public().(ed25519.PublicKey)); got != want {
		t.Errorf("the public key is %s, want %s", got, want)
	}
}

// meet has two sides shake hands, and returns what each says to it.
func meet(t *testing.T, server, client []string) (serverErr, clientErr error) {
	t.Helper()
	configs := make([]*tls.Config, 2)
	for i, secrets := range [][]string{server, client} {
		var err error
		if configs[i], err = FromSecrets(secrets); err != nil {
			t.Fatal(err)
		}
	}
	near, far := net.Pipe()
	defer near.Close()
	served := make(chan error, 1)
	go func() {
		defer far.Close()
		conn := tls.Server(far, configs[0])
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte("hello"))
		}
		served <- err
	}()
	conn := tls.Client(near, configs[1])
	_, clientErr = conn.Read(make([]byte, 5))
	near.Close()
	return <-served, clientErr
}

func TestTwoSidesMeetByASecretThatBothAccept(t *testing.T) {
	other := strings.ToUpper(someSecret)
	for _, c := range []struct {
		server, client []string
		meet           bool
	}{
		{[]string{someSecret}, []string{someSecret}, true},
		{[]string{someSecret, other}, []string{other, someSecret}, true},
		{[]string{someSecret}, []string{other}, false},
		{[]string{someSecret}, []string{other, someSecret}, false}, // which it accepts, and does not prove
	} {
		serverErr, clientErr := meet(t, c.server, c.client)
		if c.meet != (serverErr == nil && clientErr == nil) {
			t.Errorf("%q and %q: %v, %v", c.server, c.client, serverErr, clientErr)
		}
		if !c.meet && !errors.Is(serverErr, ErrSecret) && !errors.Is(clientErr, ErrSecret) {
			t.Errorf("%q and %q: nobody says what is wrong: %v, %v", c.server, c.client, serverErr, clientErr)
		}
	}
}

func TestASecretThatIsTooShortIsNone(t *testing.T) {
	for _, secrets := range [][]string{{someSecret[:MinSecret-1]}, {someSecret, ""}} {
		if _, err := FromSecrets(secrets); err == nil || strings.Contains(err.Error(), secrets[0]) {
			t.Errorf("%q: %v", secrets, err)
		}
	}
}
