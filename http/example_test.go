package kvhttp_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/kvraft/kvraft"
	kvhttp "github.com/kvraft/kvraft/http"
)

// A store's API below a prefix of a program's own mux.
func ExampleHandler() {
	store, err := kvraft.Open("", kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	mux := http.NewServeMux()
	mux.Handle("/kv/", http.StripPrefix("/kv", kvhttp.Handler(store)))
	server := httptest.NewServer(mux)
	defer server.Close()

	do := func(method, path, body string) string {
		request, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		if err != nil {
			log.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			log.Fatal(err)
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode/100 != 2 {
			log.Fatal(response.Status, string(answer), err)
		}
		return string(answer)
	}
	do("POST", "/kv/key", `{"user1":"batman","user2":"robin"}`)
	fmt.Println(do("GET", "/kv/key/user1", ""))
	do("DELETE", "/kv/key/user2", "")
	fmt.Println(do("GET", "/kv/keys/user2/", ""))
	fmt.Println(do("GET", "/kv/key?prefix=user", ""))
	do("PUT", "/kv/files/etc/motd", "hello")
	fmt.Println(do("GET", "/kv/files?key=etc/motd", ""))
	// Output:
	// {"user1":"batman"}
	// {"value":""}
	// {"entries":[{"key":"user1","value":"batman","version":1}],"version":2,"more":false}
	// hello
}

// One port for everything: the other nodes and the HTTP API.
func ExampleHandler_onePort() {
	store, err := kvraft.Open("", kvraft.WithInMemory(), kvraft.WithAddr("127.0.0.1:0"), kvraft.WithSharedPort())
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	conns := store.OtherConns()
	go http.Serve(conns, kvhttp.Handler(store)) // ends with the store

	response, err := http.Post("http://"+conns.Addr().String()+"/key", "application/json", strings.NewReader(`{"color":"green"}`))
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	fmt.Println(response.Status, conns.Addr().String() == store.Status().Addr)
	// Output: 200 OK true
}
