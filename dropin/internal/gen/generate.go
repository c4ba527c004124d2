package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/printer"
	"go/token"
	"maps"
	"slices"
	"strings"
)

const notice = "// Code generated from what package net exports by dropin/internal/gen. DO NOT EDIT.\n\n"

// generate returns the text of the generated files by file name. It returns an error for each
// exported name without a choice and each choice without an exported name.
func generate(net map[string]export, how map[string]choice) (map[string][]byte, error) {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(net)) {
		if _, ok := how[name]; !ok && !isMethod(name) {
			errs = append(errs, fmt.Errorf("net.%s is new: choose in policy.go what is done about it", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(how)) {
		// For a method, check only the type. The method may be promoted from an embedded type, so the
		// tests of package dropin check that it exists.
		of, _, _ := strings.Cut(name, ".")
		if _, ok := net[of]; !ok {
			errs = append(errs, fmt.Errorf("net has no %s: remove it from policy.go", name))
		}
		if isMethod(name) && how[name].way != refused {
			errs = append(errs, fmt.Errorf("%s: a method can only be refused", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	files := make(map[string][]byte)
	for _, f := range []struct {
		name string
		text func(map[string]export, map[string]choice) (string, error)
	}{
		{"net.go", netText}, {"refused.go", refusedText}, {"api_test.go", apiText},
	} {
		text, err := f.text(net, how)
		if err != nil {
			return nil, err
		}
		formatted, err := format.Source([]byte(notice + text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", f.name, err, text)
		}
		files[f.name] = formatted
	}
	return files, nil
}

// named returns the names in how for which ok returns true, sorted.
func named(net map[string]export, how map[string]choice, ok func(export, choice) bool) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(how)) {
		if ok(net[name], how[name]) {
			names = append(names, name)
		}
	}
	return names
}

// netText writes net.go.
func netText(net map[string]export, how map[string]choice) (string, error) {
	var b strings.Builder
	group := func(keyword, from string, k kind, w way) {
		names := named(net, how, func(e export, c choice) bool { return e.kind == k && c.way == w })
		fmt.Fprintf(&b, "%s (\n", keyword)
		for _, name := range names {
			fmt.Fprintf(&b, "%s = %s.%s\n", name, from, name)
		}
		b.WriteString(")\n\n")
	}
	b.WriteString("// Constants of net.\n")
	group("const", "net", isConst, same)
	b.WriteString("// Variables of net. They are copies, but share what the values point to.\n")
	group("var", "net", isVar, same)
	b.WriteString("// Types of net that are data, interfaces or errors. UnixConn and UnixListener are here because type\n" +
		"// switches name them: nothing in this package returns one.\n")
	group("type", "net", isType, same)
	b.WriteString("// Connections and listeners of usernet, with the methods of their namesakes in net.\n")
	group("type", "usernet", isType, ours)

	imports := map[string]bool{"net": true, "github.com/usernet/usernet": true}
	for _, name := range named(net, how, func(e export, c choice) bool {
		return e.kind == isFunc && (c.way == same || c.way == onHost || c.way == lookup)
	}) {
		if isMethod(name) {
			continue
		}
		if err := funcText(&b, name, net[name].fn, how[name], imports); err != nil {
			return "", err
		}
	}
	var head strings.Builder
	head.WriteString("package dropin\n\nimport (\n")
	for _, path := range slices.SortedFunc(maps.Keys(imports), standardFirst) {
		if strings.Contains(path, ".") {
			head.WriteString("\n")
		}
		fmt.Fprintf(&head, "%q\n", path)
	}
	head.WriteString(")\n\n")
	return head.String() + b.String(), nil
}

// standardFirst compares two import paths. Those of the standard library, which have no dot, come first.
func standardFirst(a, b string) int {
	if x, y := strings.Contains(a, "."), strings.Contains(b, "."); x != y {
		if x {
			return 1
		}
		return -1
	}
	return strings.Compare(a, b)
}

// funcText writes one function. Its signature is literally net's; only the meaning of the type
// names differs.
func funcText(b *strings.Builder, name string, fn *ast.FuncType, c choice, imports map[string]bool) error {
	signature, err := source(fn)
	if err != nil {
		return err
	}
	signature = strings.TrimPrefix(signature, "func")
	for path, pkg := range map[string]string{"context": "context.", "net/netip": "netip.", "os": "os.", "time": "time."} {
		if strings.Contains(signature, pkg) {
			imports[path] = true
		}
	}
	var args []string
	for _, field := range fn.Params.List {
		if _, ok := field.Type.(*ast.Ellipsis); ok {
			return fmt.Errorf("%s: a variadic function must be written by hand", name)
		}
		for _, id := range field.Names {
			args = append(args, id.Name)
		}
	}
	list := strings.Join(args, ", ")
	switch c.way {
	case same:
		fmt.Fprintf(b, "// %s is net.%s.\nfunc %s%s { return net.%s(%s) }\n\n", name, name, name, signature, name, list)
	case lookup:
		imports["context"] = true
		fmt.Fprintf(b, "// %s is net.%s, with DefaultResolver.\nfunc %s%s {\n", name, name, name, signature)
		fmt.Fprintf(b, "return DefaultResolver.%s(context.Background(), %s)\n}\n\n", name, list)
	case onHost:
		if len(args) == 0 || args[0] != "network" || fn.Results.NumFields() != 2 {
			return fmt.Errorf("%s: a function of another form must be written by hand", name)
		}
		fmt.Fprintf(b, "// %s is net.%s, on the default Host.\nfunc %s%s {\n", name, name, name, signature)
		fmt.Fprintf(b, "h, err := hostFor(%q, network)\nif err != nil {\nreturn nil, err\n}\n", c.op)
		fmt.Fprintf(b, "return h.%s(%s)\n}\n\n", name, list)
	}
	return nil
}

// source formats a node as source text.
func source(n ast.Node) (string, error) {
	var b bytes.Buffer
	err := printer.Fprint(&b, token.NewFileSet(), n)
	return b.String(), err
}

// refusedText writes refused.go, which is part of the package's documentation.
func refusedText(_ map[string]export, how map[string]choice) (string, error) {
	byReason := make(map[string][]string)
	for name, c := range how {
		if c.way == refused {
			byReason[c.why] = append(byReason[c.why], name)
		}
	}
	var items []string
	for why, names := range byReason {
		slices.Sort(names)
		items = append(items, fmt.Sprintf("//   - %s: %s.\n", strings.Join(names, ", "), why))
	}
	slices.Sort(items)
	return "// # Refused\n//\n// Names of net that this package does not have, on purpose:\n" + strings.Join(items, "") + "package dropin\n", nil
}

// apiText writes api_test.go, which has the tables with which the tests compare the packages.
func apiText(net map[string]export, how map[string]choice) (string, error) {
	var b strings.Builder
	b.WriteString("package dropin\n\nimport (\n\"net\"\n\"reflect\"\n)\n\n")
	table := func(name, doc, entry string, kinds ...kind) {
		fmt.Fprintf(&b, "// %s %s\nfunc %s() []pair {\nreturn []pair{\n", name, doc, name)
		for _, n := range named(net, how, func(e export, c choice) bool {
			return slices.Contains(kinds, e.kind) && c.way != refused
		}) {
			b.WriteString(strings.ReplaceAll(entry, "NAME", n) + "\n")
		}
		b.WriteString("}\n}\n\n")
	}
	b.WriteString("// A pair is a name with its values in net and in this package.\ntype pair struct {\nname string\ntheirs, ours reflect.Value\n}\n\n")
	table("apiFuncs", "are the functions.", `{"NAME", reflect.ValueOf(net.NAME), reflect.ValueOf(NAME)},`, isFunc)
	table("apiValues", "are the constants and variables.", `{"NAME", reflect.ValueOf(net.NAME), reflect.ValueOf(NAME)},`, isConst, isVar)
	table("apiTypes", "are the types, as nil pointers to them.", `{"NAME", reflect.ValueOf((*net.NAME)(nil)), reflect.ValueOf((*NAME)(nil))},`, isType)
	b.WriteString("// apiRefused are the names that are absent on purpose.\nfunc apiRefused() []string {\nreturn []string{\n")
	for _, name := range named(net, how, func(_ export, c choice) bool { return c.way == refused }) {
		fmt.Fprintf(&b, "%q,\n", name)
	}
	b.WriteString("}\n}\n")
	return b.String(), nil
}
