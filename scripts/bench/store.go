// A store as one would write it in Go in an hour: net/http and a map behind a
// lock. It is measured beside ours.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"sync"
)

func main() {
	var lock sync.RWMutex
	values := map[string][]byte{}
	http.HandleFunc("/kv/", func(answer http.ResponseWriter, request *http.Request) {
		key := strings.TrimPrefix(request.URL.Path, "/kv/")
		switch request.Method {
		case http.MethodGet:
			lock.RLock()
			value, found := values[key]
			lock.RUnlock()
			if !found {
				http.Error(answer, "key not found", http.StatusNotFound)
				return
			}
			answer.Write(value)
		case http.MethodPut:
			value, err := io.ReadAll(request.Body)
			if err != nil {
				http.Error(answer, "cannot read the body", http.StatusBadRequest)
				return
			}
			lock.Lock()
			values[key] = value
			lock.Unlock()
		default:
			http.Error(answer, "method not allowed", http.StatusMethodNotAllowed)
		}
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
