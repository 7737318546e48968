package kvhttp_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

// slowBody sends the beginning of a body of size bytes; more of it, or its end, goes
// through the writer. The answer comes when the body has ended.
func slowBody(t *testing.T, h http.Handler, size int64, begin string) (rest *io.PipeWriter, answer <-chan *httptest.ResponseRecorder) {
	t.Helper()
	body, rest := io.Pipe()
	r := httptest.NewRequest("PUT", "/files/slow", body)
	r.ContentLength = size
	answers := make(chan *httptest.ResponseRecorder, 1)
	go func() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		body.Close()
		answers <- w
	}()
	if _, err := io.WriteString(rest, begin); err != nil {
		t.Fatal(err)
	}
	return rest, answers
}

func TestBodiesAreBoundedAllTogether(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store, kvhttp.WithBodyBudget(64<<10))
	rest, answer := slowBody(t, h, 60<<10, strings.Repeat("x", 40<<10))

	large := strings.Repeat("y", 40<<10)
	w := call(t, h, "PUT", "/files/large", large)
	if p := wantProblem(t, w, 503); p.Applied != "no" || w.Header().Get("Retry-After") == "" || !strings.Contains(p.Detail, "bodies of other requests") {
		t.Errorf("%v %+v does not say what is to be done", w.Header(), p)
	}
	wantMade(t, call(t, h, "PUT", "/files/small", strings.Repeat("z", 10<<10)))
	wantAnswer(t, call(t, h, "GET", "/files/large?", ""), 404, call(t, h, "GET", "/files/large", "").Body.String())

	fmt.Fprint(rest, strings.Repeat("x", 20<<10))
	rest.Close()
	wantMade(t, <-answer)
	wantMade(t, call(t, h, "PUT", "/files/large", large))
}

// What has not arrived takes no memory, and so no part of the budget.
func TestABodyThatIsOnlyAnnouncedIsNotCounted(t *testing.T) {
	h := kvhttp.Handler(newFake(), kvhttp.WithBodyBudget(64<<10))
	for range 20 {
		rest, answer := slowBody(t, h, 1<<20, "x")
		defer func() { rest.Close(); <-answer }()
	}
	wantMade(t, call(t, h, "PUT", "/files/large", strings.Repeat("y", 60<<10)))
}

func TestABodyThatIsAloneMayTakeMoreThanTheBudget(t *testing.T) {
	h := kvhttp.Handler(newFake(), kvhttp.WithBodyBudget(1), kvhttp.WithAnswerBudget(1))
	value := strings.Repeat("x", limits.value)
	for range 3 {
		wantMade(t, call(t, h, "PUT", "/files/f", value))
		wantAnswer(t, call(t, h, "GET", "/files/f", ""), 200, value)
		wantAnswer(t, call(t, h, "POST", "/keys/f", `{"value":"`+value+`"}`), 200, `{"value":"`+value+`"}`)
	}
}

// A pair of 8 bytes takes some hundred once it is decoded.
func TestWhatABodyIsDecodedIntoIsCounted(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store, kvhttp.WithBodyBudget(1<<20))
	rest, answer := slowBody(t, h, 60<<10, strings.Repeat("x", 40<<10))
	wantProblem(t, call(t, h, "POST", "/key", pairs(8000)), 503)
	rest.Close()
	<-answer
	wantAnswer(t, call(t, h, "POST", "/key", pairs(8000)), 200, "")
}

// pairs is an object with n keys.
func pairs(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%x":""`, i)
	}
	return "{" + b.String()[1:] + "}"
}

func TestAnObjectHasAsManyPairsAsTheStoreTakes(t *testing.T) {
	h := kvhttp.Handler(openStore(t))
	wantAnswer(t, call(t, h, "POST", "/key", pairs(1<<16)), 200, "")
	if p := wantProblem(t, call(t, h, "POST", "/key", pairs(1<<16+1)), 413); p.Type != "about:blank" || p.Applied != "no" {
		t.Errorf("it was decoded, and reached the store: %+v", p)
	}
}

// stalledRead is a client that asks and takes no answer.
func stalledRead(conn net.Conn, target string) {
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", target)
	synctest.Wait()
}

func TestAnswersThatNobodyTakesAreBoundedAllTogether(t *testing.T) {
	store := newFake()
	store.set("large", bytes.Repeat([]byte("x"), 100<<10))
	store.set("small", []byte("x"))
	h := kvhttp.Handler(store, kvhttp.WithAnswerBudget(150<<10))
	serve(t, h, func(conn net.Conn) {
		stalledRead(conn, "/files/large")
		for _, target := range []string{"/files/large", "/key/large", "/keys/large/"} {
			w := call(t, h, "GET", target, "")
			if p := wantProblem(t, w, 503); w.Header().Get("Retry-After") == "" || !strings.Contains(p.Detail, "answers to other requests") {
				t.Errorf("%v %+v does not say what is to be done", w.Header(), p)
			}
		}
		wantAnswer(t, call(t, h, "GET", "/files/small", ""), 200, "x")
		time.Sleep(10 * time.Second) // virtual
		synctest.Wait()
		if w := call(t, h, "GET", "/files/large", ""); w.Code != 200 {
			t.Errorf("a client that takes nothing still holds its answer: %d %s", w.Code, w.Body)
		}
	})
}

// An answer that is refused must not have been a write.
func TestAWriteWhoseAnswerHasNoRoomIsNotMade(t *testing.T) {
	store := newFake()
	store.set("large", bytes.Repeat([]byte("x"), 100<<10))
	h := kvhttp.Handler(store, kvhttp.WithAnswerBudget(150<<10))
	serve(t, h, func(conn net.Conn) {
		stalledRead(conn, "/files/large")
		p := wantProblem(t, call(t, h, "POST", "/keys/echo", `{"value":"`+strings.Repeat("y", 100<<10)+`"}`), 503)
		if _, made := store.values()["echo"]; made || p.Applied != "no" {
			t.Errorf("applied %q, and was made: %v", p.Applied, made)
		}
	})
}

func TestAClientThatTakesNoAnswerIsCutOff(t *testing.T) {
	store := newFake()
	store.set("large", bytes.Repeat([]byte("x"), 1<<20))
	for _, target := range []string{"/files/large", "/files/absent", "/status", "OPTIONS"} {
		serve(t, kvhttp.Handler(store), func(conn net.Conn) {
			began := time.Now()
			if target == "OPTIONS" {
				fmt.Fprint(conn, "OPTIONS /key HTTP/1.1\r\nHost: h\r\n\r\n")
			} else {
				stalledRead(conn, target)
			}
			time.Sleep(11 * time.Second) // virtual
			synctest.Wait()
			if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
				t.Errorf("%s: after %v there are still %d bytes to read, %v", target, time.Since(began), len(rest), err)
			}
		})
	}
}

// The time is for each piece: a slow client is not one that does not read.
func TestAClientThatReadsSlowlyGetsAll(t *testing.T) {
	store := newFake()
	value := bytes.Repeat([]byte("x"), 1<<20)
	store.set("large", value)
	serve(t, kvhttp.Handler(store), func(conn net.Conn) {
		stalledRead(conn, "/files/large")
		slow := bufio.NewReaderSize(slowReader{conn}, 64<<10)
		resp, err := http.ReadResponse(slow, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, value) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		// The deadlines are not left on the connection.
		time.Sleep(time.Minute) // virtual
		fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
		wantStatus(t, conn, 200)
	})
}

// slowReader takes 9 seconds, virtual ones, for each 64 KiB.
type slowReader struct{ conn net.Conn }

func (s slowReader) Read(b []byte) (int, error) {
	n, err := s.conn.Read(b)
	time.Sleep(time.Duration(n) * 9 * time.Second / (64 << 10))
	return n, err
}

// What was not taken, and this server has written already, is not left with the operating system either.
func TestAConnectionThatIsCutOffIsReset(t *testing.T) {
	shared := openStore(t, kvraft.WithSharedPort())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for name, ln := range map[string]net.Listener{"a port": ln, "the peers' port": shared.OtherConns()} {
		store := newFake()
		store.set("large", bytes.Repeat([]byte("x"), 16<<20))
		h := kvhttp.Handler(store, kvhttp.WithTimeout(50*time.Millisecond))
		done := make(chan bool, 1)
		server := &http.Server{ConnContext: kvhttp.ConnContext, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			done <- true
		})}
		go server.Serve(ln)
		t.Cleanup(func() { server.Close() })
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /files/large HTTP/1.1\r\nHost: h\r\n\r\n")
		<-done
		if n, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: read %d bytes more, %v", name, n, err)
		}
	}
}

func TestAListingIsBoundedInTheBytesOfItsJSON(t *testing.T) {
	store := openStore(t)
	h := kvhttp.Handler(store)
	var want []string
	for i := range 7 {
		want = append(want, fmt.Sprint(i))
		if _, err := store.Set(t.Context(), want[i], bytes.Repeat([]byte("\x01"), 300<<10)); err != nil { // \u0001 in JSON
			t.Fatal(err)
		}
	}
	var got []string
	for after, more := "", true; more; {
		w := call(t, h, "GET", "/key?prefix=&after="+url.QueryEscape(after), "")
		if w.Body.Len() > 4<<20+6*300<<10+100 {
			t.Errorf("%d bytes of JSON", w.Body.Len())
		}
		page := list(t, h, "prefix=&after="+url.QueryEscape(after))
		if len(page.Entries) == 0 {
			t.Fatalf("no entry after %q, and more: %v", after, page.More)
		}
		got, more = append(got, page.keys()...), page.More
		after = got[len(got)-1]
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAnErrorIsShort(t *testing.T) {
	h := kvhttp.Handler(openStore(t), kvhttp.WithTimeout(5*time.Second))
	long := strings.Repeat("k", 1<<20)
	for _, c := range []struct{ method, target, body, header string }{
		{"POST", "/key", `{"a":` + strings.Repeat("9", 1<<20) + `}`, ""},
		{"POST", "/key", `{"` + long + `":1}`, ""},
		{"POST", "/key", `{"` + long + `":"v"}`, ""},
		{"POST", "/key", `{"` + long, ""},
		{"GET", "/files/" + long, "", ""},
		{"GET", "/key?limit=" + long, "", ""},
		{"GET", "/key?consistency=" + long, "", ""},
		{"GET", "/key?" + long + "%zz", "", ""},
		{"GET", "/watch?from=" + long, "", ""},
		{"POST", "/join", `{"id":"` + long + `","addr":"h:1"}`, ""},
		{"POST", "/join", `{"id":"n","addr":"` + long + `:1"}`, ""},
		{"POST", "/join", `{"id":"n","addr":"` + long + `"}`, ""},
		{"POST", "/remove", `{"id":"` + long + `"}`, ""},
		{"POST", "/transfer", `{"id":"` + long + `"}`, ""},
		{"PUT", "/files/f", "v", "Idempotency-Key: " + long},
		{"PUT", "/files/f", "v", "If-Match: " + long},
		{"PUT", "/files/f", "v", "Content-Encoding: " + long},
	} {
		w := call(t, h, c.method, c.target, c.body, c.header)
		if w.Code < 400 || w.Body.Len() > 2<<10 {
			t.Errorf("%s %.20s %.20s %.20s: %d with %d bytes", c.method, c.target, c.body, c.header, w.Code, w.Body.Len())
		}
	}
}

// A long detail is cut in its middle: what was wrong stands in the front, the cause at
// the end.
func TestALongDetailKeepsItsEnds(t *testing.T) {
	store := newFake()
	store.end = fmt.Errorf("the front %s the end", strings.Repeat("ü", 1<<20))
	p := wantProblem(t, call(t, kvhttp.Handler(store), "GET", "/watch", ""), 500)
	if !strings.HasPrefix(p.Detail, "the front ü") || !strings.HasSuffix(p.Detail, "ü the end") {
		t.Errorf("%q", p.Detail)
	}
}

func TestABodyIsTakenAsItIs(t *testing.T) {
	store := newFake()
	h := kvhttp.Handler(store)
	for _, c := range []struct{ method, target string }{{"PUT", "/files/f"}, {"POST", "/files/f"}, {"POST", "/key"}, {"POST", "/keys/f"}, {"POST", "/join"}} {
		w := call(t, h, c.method, c.target, "\x1f\x8b", "Content-Encoding: gzip")
		if p := wantProblem(t, w, 415); p.Applied != "no" || w.Header().Get("Accept-Encoding") != "identity" {
			t.Errorf("%v %+v", w.Header(), p)
		}
	}
	wantValues(t, store, map[string]string{})
	wantMade(t, call(t, h, "PUT", "/files/f", "v", "Content-Encoding: identity"))
}

func TestABodyThatIsNoObjectIsToldSoInPlainWords(t *testing.T) {
	h := kvhttp.Handler(newFake())
	for body, want := range map[string]string{
		"\xef\xbb\xbf{\"a\":\"b\"}": "byte order mark of UTF-8",
		"\xff\xfe{\x00}\x00":        "byte order mark of UTF-16",
		" [\"a\"]":                  "not an array",
		"\n\"a\"":                   "not a string",
		"-1":                        "not a number",
		"true":                      "not true or false",
		"null":                      "not null",
		"":                          "unexpected end of JSON input",
		`{"a":["b"]}`:               `the value of "a" is not a string`,
	} {
		p := wantProblem(t, call(t, h, "POST", "/key", body), 400)
		if !strings.Contains(p.Detail, want) || strings.Contains(p.Detail, "Go value") || strings.Contains(p.Detail, "json:") {
			t.Errorf("%q: %q, want %q", body, p.Detail, want)
		}
	}
}
